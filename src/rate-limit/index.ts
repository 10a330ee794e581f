export { ipKey } from './client-key.ts'
export { type ExpressRateLimitStore, expressRateLimitStore } from './express-rate-limit-store.ts'
export { flexibleLimiter } from './flexible-limiter.ts'
export type { HeaderDialect } from './headers.ts'
export { type ConsumeOptions, createRateLimiter, type RateLimiter, rateLimiter } from './limiter.ts'
export type {
  OnUnavailable,
  RateLimiterOptions,
  RateLimitOptions,
  RateLimitPolicyOptions,
  RequestLimitOptions,
  SeveralLimitsOptions,
  SharedLimiterOptions,
} from './options.ts'
export type {
  RateLimitAlgorithm,
  RateLimitDecision,
  RateLimitPolicy,
  RateLimitSource,
  Verdict,
} from './policy.ts'
export { createRateLimit, type RateLimitMiddleware, rateLimit } from './rate-limit.ts'
export type { RateLimitStats } from './stats.ts'
