/** What one cache of one process has done since it was made. */
export interface CacheStats {
  /** Answers from this process's copies and from Redis. Callers that share a load count as one. */
  readonly hits: { readonly l1: number; readonly l2: number }
  /** Answers from neither. */
  readonly misses: number
  /** Loaders run. */
  readonly loads: number
  /** Loaded values stored. */
  readonly stores: number
  /** Loaded values not stored, because the key was written, deleted or cleared meanwhile. */
  readonly refusedStores: number
  /** Keys of this cache that were heard to have changed. */
  readonly invalidations: number
  /** Values replaced before or after their TTL while others were served: see `early`. */
  readonly refreshes: number
  /** Callers that got a value after its TTL: see `grace`. */
  readonly stale: number
  readonly l1: {
    readonly entries: number
    readonly bytes: number
    /** Whether copies are used at the moment. */
    readonly on: boolean
    /** Why not. */
    readonly reason: string | undefined
  }
}

export interface CacheCounters {
  l1Hits: number
  l2Hits: number
  misses: number
  loads: number
  stores: number
  refusedStores: number
  invalidations: number
  refreshes: number
  stale: number
}

export function createCounters(): CacheCounters {
  return {
    l1Hits: 0,
    l2Hits: 0,
    misses: 0,
    loads: 0,
    stores: 0,
    refusedStores: 0,
    invalidations: 0,
    refreshes: 0,
    stale: 0,
  }
}
