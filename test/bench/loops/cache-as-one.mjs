import { createShared } from 'as-one'
import { batchOf, checkValue, KEYS, keys, product } from './cache-values.mjs'

/**
 * `what`: 'near' is a hit in this process; 'far' one in Redis, without L1; 'behind' one in Redis, behind an L1 that has
 * room for half of the entries: read in turn, none is still there when it is asked for again; 'set' a write. `call`: how it is read.
 */
export async function open({ redisUrl, what, call = 'getOrSet', tags = [], atOnce }) {
  const shared = createShared({ redis: redisUrl, namespace: 'bench' })
  const l1 = { far: false, behind: { maxEntries: KEYS / 2 } }[what] ?? {}
  const cache = shared.cache({ ttl: '5m', timeout: '5s', l1 })
  for (const [n, key] of keys.entries()) await cache.set(key, product(n), { tags })
  const load = (n) => cache.getOrSet(keys[n], () => Promise.reject(new Error(`${keys[n]} is not cached`)))
  const read = call === 'get' ? (n) => cache.get(keys[n]) : load
  const operate = what === 'set' ? (n) => cache.set(keys[n], product(n)) : read
  // Copies, and what is known of Redis, count from the first proof of freshness on.
  for (const until = performance.now() + 5_000; l1 && !cache.stats().l1.on; ) {
    if (performance.now() > until) throw new Error(`no L1: ${cache.stats().l1.reason}`)
    await read(0)
  }
  for (let n = 0; n < keys.length; n++) await read(n)
  return { batch: batchOf(operate, atOnce), check: () => checkValue(read) }
}
