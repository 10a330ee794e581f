/** Every code a `SharedStateError` can carry; match on `error.code`, not on `instanceof`. */
export type SharedStateErrorCode =
  | 'ERR_AS_ONE_OPTIONS'
  | 'ERR_AS_ONE_APP'
  | 'ERR_AS_ONE_BOOT'
  | 'ERR_AS_ONE_RELOAD'
  | 'ERR_AS_ONE_PORT'
  | 'ERR_AS_ONE_REDIS_CONFIG'
  | 'ERR_AS_ONE_REDIS_UNAVAILABLE'
  | 'ERR_AS_ONE_REDIS_VERSION'
  | 'ERR_AS_ONE_LOCAL_REDIS'
  | 'ERR_AS_ONE_CHANNEL'
  | 'ERR_AS_ONE_PAYLOAD'
  | 'ERR_AS_ONE_SESSION'
  | 'ERR_AS_ONE_CACHE'
  | 'ERR_AS_ONE_RATE_LIMIT'
  | 'ERR_AS_ONE_TIMEOUT'
  | 'ERR_AS_ONE_ECOSYSTEM'
  | 'ERR_AS_ONE_CONTROL'
  | 'ERR_AS_ONE_ABORTED'
  | 'ERR_AS_ONE_CLOSED'

/**
 * The one error class of this package: a stable `code`, a message that names the option or key,
 * the value and what to do, and the `cause` where there is one.
 *
 * @example
 * try { await session.save() } catch (error) { if (error.code === 'ERR_AS_ONE_REDIS_UNAVAILABLE') retryLater() }
 */
export class SharedStateError extends Error {
  readonly code: SharedStateErrorCode
  /** 503 when Redis is away: what the error handlers of Express, Koa and Fastify answer with. */
  declare readonly status?: 503

  constructor(code: SharedStateErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SharedStateError'
    this.code = code
    if (code === 'ERR_AS_ONE_REDIS_UNAVAILABLE') Object.assign(this, { status: 503 })
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
