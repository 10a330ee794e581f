import { channels } from '../core/channels.ts'

/** What a cache tells about itself, to `on` and to the diagnostics channel `as-one:cache`. */
export interface CacheEvents {
  /** Copies count: the first proof of freshness is there. */
  'l1-on': Record<string, never>
  /** Copies stand aside. `refused`: Redis does not let us listen. */
  'l1-off': { readonly reason: string; readonly refused: boolean }
  /** Redis could not be asked. */
  unavailable: { readonly operation: string; readonly reason: string }
  /** A loaded value was not stored, since somebody has written, deleted or cleared the key meanwhile. */
  'store-refused': { readonly key: string }
  /** A caller got a value after its TTL. */
  stale: {
    readonly key: string
    readonly reason: 'soft-timeout' | 'hard-timeout' | 'load-failed'
    readonly error?: unknown
  }
  /** A load failed that no caller waits for any more. */
  'load-failed': { readonly key: string; readonly error: unknown }
}

export type CacheListener<Event extends keyof CacheEvents> = (detail: CacheEvents[Event]) => void

export class Events {
  readonly #cache: string
  readonly #listeners = new Map<keyof CacheEvents, Set<CacheListener<never>>>()

  constructor(cache: string) {
    this.#cache = cache
  }

  on<Event extends keyof CacheEvents>(event: Event, listener: CacheListener<Event>): () => void {
    // A function of its own, so that one listener may be added twice and each be taken away alone.
    const own = ((detail: CacheEvents[Event]) => listener(detail)) as CacheListener<never>
    const listeners = this.#listeners.get(event) ?? new Set()
    this.#listeners.set(event, listeners.add(own))
    return () => void listeners.delete(own)
  }

  emit<Event extends keyof CacheEvents>(event: Event, detail: CacheEvents[Event]): void {
    if (channels.cache.hasSubscribers) channels.cache.publish({ event, cache: this.#cache, ...detail })
    for (const listener of this.#listeners.get(event) ?? []) {
      try {
        listener(detail as never)
      } catch (error) {
        // A mistake of the listener's, not of the call that it hears about.
        process.nextTick(() => {
          throw error
        })
      }
    }
  }
}
