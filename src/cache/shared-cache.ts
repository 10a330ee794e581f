import { defaultContext } from '../context.ts'
import { type Cache, createCache } from './cache.ts'
import type { CacheOptions } from './options.ts'

/**
 * A cache on the default instance, shared by all workers of all machines.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 * @example
 * const cache = sharedCache({ ttl: '5m' })
 * const product = await cache.getOrSet(`product:${id}`, () => db.product(id))
 */
export function sharedCache(options?: CacheOptions): Cache {
  return createCache(defaultContext(), options)
}
