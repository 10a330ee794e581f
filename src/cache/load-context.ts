import { type Duration, durationMs } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { LONGEST_MS } from './options.ts'

/** What a loader is given, and may say about its result. */
export interface LoadContext {
  /** The value that the result is to replace, past its TTL but within its grace; undefined when there is none. */
  readonly stale: unknown
  /**
   * How long this result lives, instead of `ttl`, `jitter` and `negativeTtl`; 0 does not store it. Said again, the last one counts.
   *
   * @throws SharedStateError `ERR_AS_ONE_OPTIONS`
   * @example cache.getOrSet('token', async ({ setTtl }) => { const token = await login(); setTtl(token.expiresInMs - 5_000); return token })
   */
  setTtl(ttl: Duration): void
}

/** One for each run of a loader; `ttlMs` is what it has said. */
export class OwnLoadContext implements LoadContext {
  readonly stale: unknown
  ttlMs: number | undefined

  constructor(stale: unknown) {
    this.stale = stale
  }

  // An arrow, so that a loader may take it out of the context.
  readonly setTtl = (ttl: Duration): void => {
    const ms = durationMs(ttl)
    if (ms === undefined) {
      const what = `setTtl must be given a duration such as '5m', or milliseconds, got ${show(ttl)}`
      throw new SharedStateError('ERR_AS_ONE_OPTIONS', what)
    }
    this.ttlMs = Math.min(LONGEST_MS, ms)
  }
}
