export interface BackoffOptions {
  readonly minMs: number
  readonly maxMs: number
  /** A worker that has lived this long starts over at the shortest delay. */
  readonly stableAfterMs: number
}

/** Full jitter between the shortest delay and its doubling per failure in a row, so that slots do not restart in step. */
export function backoffMs(failures: number, { minMs, maxMs }: BackoffOptions): number {
  const ceiling = Math.min(maxMs, minMs * 2 ** Math.min(failures, 30))
  return Math.round(minMs + Math.random() * Math.max(0, ceiling - minMs))
}
