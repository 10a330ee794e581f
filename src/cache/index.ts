export { type Cache, type CacheEntry, createCache, type WrapOptions } from './cache.ts'
export type { CacheEvents, CacheListener } from './events.ts'
export type { LoadContext } from './load-context.ts'
export type {
  CacheOptions,
  LifeOptions,
  LoaderOptions,
  LoadOptions,
  NearOptions,
  SetOptions,
} from './options.ts'
export { sharedCache } from './shared-cache.ts'
export type { CacheStats } from './stats.ts'
export type { Serializer } from './values.ts'
