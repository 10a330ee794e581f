import type { CacheNews } from './invalidations.ts'

/** Somebody in this process who holds copies of what is in Redis. Calls come in the order things happened. */
export interface InvalidationWatcher {
  /** How often a proof is wanted, in ms. */
  readonly proofEveryMs: number
  /** Keys below `ns:c:` that may have changed, whoever has written them; null: all of them. */
  invalidated(keys: readonly string[] | null): void
  /** Every write that Redis had acknowledged by `at` (ms of the machine's monotonic clock) has been told. */
  proven(at: number): void
  /** Writes may have been missed, and may be until the next proof. */
  lost(reason: string, refused: boolean): void
}

/** Where a room hears what is written to the cache's keys. */
export interface Invalidations {
  /** Joins the machine's hub if need be; returns the function that ends it. */
  watch(watcher: InvalidationWatcher): () => void
}

/** The watchers of one process share its seat at the hub. */
export interface Watchers extends Invalidations {
  /** How often the hub is to send proofs; 0 when nobody has watched yet. */
  everyMs(): number
  hear(news: CacheNews): void
}

/** `changed` is called when the hub has to be told how often. */
export function createWatchers(changed: () => void): Watchers {
  const watchers = new Set<InvalidationWatcher>()
  let everyMs = 0
  return {
    watch(watcher) {
      watchers.add(watcher)
      everyMs = Math.min(...[...watchers].map((each) => each.proofEveryMs))
      changed()
      // The hub goes on telling us when the last one has gone: were it to stop, a proof that is still on its way could
      // reach the next watcher, who would take it for one of its own time.
      return () => void watchers.delete(watcher)
    },
    everyMs: () => everyMs,
    hear(news) {
      if ('keys' in news) for (const watcher of watchers) watcher.invalidated(news.keys)
      else if ('provenAt' in news) for (const watcher of watchers) watcher.proven(news.provenAt)
      else for (const watcher of watchers) watcher.lost(news.lost, news.refused)
    },
  }
}
