export { type Cache, createCache } from './cache.ts'
export type { CacheOptions, LoadOptions, NearOptions, SetOptions } from './options.ts'
export { sharedCache } from './shared-cache.ts'
export type { CacheStats } from './stats.ts'
