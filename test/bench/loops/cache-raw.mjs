import { Redis } from 'ioredis'
import { redisOptions } from '../servers/redis-options.mjs'
import { batchOf, checkValue, keys, product } from './cache-values.mjs'

/** ioredis and JSON, nothing else. */
export async function open({ what, atOnce }) {
  const client = new Redis(redisOptions)
  const set = (n) => client.set(keys[n], JSON.stringify(product(n)), 'PX', 300_000)
  for (let n = 0; n < keys.length; n++) await set(n)
  const read = async (n) => JSON.parse(await client.get(keys[n]))
  return { batch: batchOf(what === 'set' ? set : read, atOnce), check: () => checkValue(read) }
}
