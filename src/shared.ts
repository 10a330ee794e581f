import type { IncomingMessage } from 'node:http'
import type { Bus } from './bus/index.ts'
import { type Cache, type CacheOptions, createCache } from './cache/index.ts'
import { createContext, defaultContext, type SharedContext, type SharedOptions } from './context.ts'
import {
  createRateLimit,
  createRateLimiter,
  type RateLimiter,
  type RateLimiterOptions,
  type RateLimitMiddleware,
  type RateLimitOptions,
  type RateLimitPolicyOptions,
  type SeveralLimitsOptions,
  type SharedLimiterOptions,
} from './rate-limit/index.ts'
import {
  createSession,
  createStore,
  type SessionMiddleware,
  type SessionOptions,
  type SessionStoreOptions,
} from './session/index.ts'

/** All rooms on one Redis and one namespace. */
export interface Shared {
  session<Data extends object = object>(options: SessionOptions): SessionMiddleware<Data>
  /** The session store alone, for express-session's `store` option. */
  sessionStore(options?: SessionStoreOptions): ReturnType<typeof createStore>
  cache(options?: CacheOptions): Cache
  rateLimit<Req extends IncomingMessage = IncomingMessage>(
    options: RateLimitOptions<Req> | readonly RateLimitPolicyOptions[],
    shared?: SeveralLimitsOptions<Req>,
  ): RateLimitMiddleware<Req>
  rateLimiter(
    options: RateLimiterOptions | readonly RateLimitPolicyOptions[],
    shared?: SharedLimiterOptions,
  ): RateLimiter
  readonly bus: Bus
  /** Sends what is queued, then closes every connection this instance has opened. Idempotent. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * An explicit instance; the short forms share a default one. Opens no connection; the first use does.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS`, `ERR_AS_ONE_REDIS_CONFIG`
 * @example
 * await using shared = createShared({ redis: 'redis://localhost', namespace: 'shop' })
 * shared.bus.broadcast('invalidate', 'product:7')
 */
export function createShared(options?: SharedOptions): Shared {
  return sharedOf(createContext(options))
}

/** The instance behind the short forms, to close it at the end of a script or a test. */
export function defaultShared(): Shared {
  return sharedOf(defaultContext())
}

function sharedOf(ctx: SharedContext): Shared {
  const close = (): Promise<void> => ctx.closing.close()
  return {
    session: (options) => createSession(ctx, options),
    sessionStore: (options) => createStore(ctx, options),
    cache: (options) => createCache(ctx, options),
    rateLimit: (options, shared) => createRateLimit(ctx, options, shared),
    rateLimiter: (options, shared) => createRateLimiter(ctx, options, shared),
    bus: ctx.bus,
    close,
    [Symbol.asyncDispose]: close,
  }
}
