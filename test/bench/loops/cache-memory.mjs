import { peer } from '../peers/load.mjs'
import { batchOf, checkValue, keys, product } from './cache-values.mjs'

/** Caches of one process alone, with their own memory stores. */
const makers = {
  async 'cache-manager'() {
    const { createCache } = await peer('cache-manager')
    return createCache({ ttl: 300_000 })
  },
  async cacheable() {
    const { Cacheable } = await peer('cacheable')
    return new Cacheable({ ttl: '5m' })
  },
}

export async function open({ library, call = 'get' }) {
  const cache = await makers[library]()
  for (const [n, key] of keys.entries()) await cache.set(key, product(n))
  const none = () => Promise.reject(new Error('not cached'))
  const read = call === 'get' ? (n) => cache.get(keys[n]) : (n) => cache.wrap(keys[n], none)
  return { batch: batchOf(read, 1), check: () => checkValue(read) }
}
