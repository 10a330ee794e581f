import { createShared } from 'as-one'
import { batchOf, checkValue, keys, product } from './cache-values.mjs'

/** `what`: 'near' is a hit in this process, 'far' one in Redis, 'set' a write; `call`: how it is read. */
export async function open({ redisUrl, what, call = 'getOrSet', tags = [], atOnce }) {
  const shared = createShared({ redis: redisUrl, namespace: 'bench' })
  const cache = shared.cache({ ttl: '5m', timeout: '5s', l1: what === 'far' ? false : {} })
  for (const [n, key] of keys.entries()) await cache.set(key, product(n), { tags })
  const load = (n) => cache.getOrSet(keys[n], () => Promise.reject(new Error(`${keys[n]} is not cached`)))
  const read = call === 'get' ? (n) => cache.get(keys[n]) : load
  const operate = what === 'set' ? (n) => cache.set(keys[n], product(n)) : read
  for (let n = 0; n < keys.length; n++) await read(n)
  return { batch: batchOf(operate, atOnce), check: () => checkValue(read) }
}
