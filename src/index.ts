export {
  type Cache,
  type CacheEntry,
  type CacheEvents,
  type CacheListener,
  type CacheOptions,
  type CacheStats,
  type LifeOptions,
  type LoadContext,
  type LoaderOptions,
  type LoadOptions,
  type NearOptions,
  type Serializer,
  type SetOptions,
  sharedCache,
  type WrapOptions,
} from './cache/index.ts'
export { type AppEntry, defineConfig, type EcosystemConfig } from './cli/index.ts'
export {
  type App,
  type ClusterHandle,
  type ClusterOptions,
  type ClusterStatus,
  type ClusterWorkerHandle,
  type PrimaryHandle,
  runCluster,
  type SupervisorEvents,
  type WorkerExit,
  type WorkerHandle,
  type WorkerStatus,
} from './cluster/index.ts'
export type { SharedOptions } from './context.ts'
export type { ByteSize, Duration } from './core/duration.ts'
export { SharedStateError, type SharedStateErrorCode } from './core/errors.ts'
export * from './default-bus.ts'
export {
  type ConsumeOptions,
  ipKey,
  type RateLimitDecision,
  type RateLimiter,
  type RateLimiterOptions,
  type RateLimitMiddleware,
  type RateLimitOptions,
  type RateLimitPolicyOptions,
  type RateLimitStats,
  rateLimit,
  rateLimiter,
} from './rate-limit/index.ts'
export type { RedisOption } from './redis/target.ts'
export {
  type EncryptionKey,
  type MergeOption,
  type MergeRule,
  type Revoked,
  type SessionCookieOptions,
  type SessionMiddleware,
  type SessionOptions,
  type SessionStoreOptions,
  type SharedSession,
  sharedSession,
  sharedSessionStore,
  type UpgradeSession,
  type UserSession,
  type UserSessions,
} from './session/index.ts'
export { createShared, defaultShared, type Shared } from './shared.ts'
