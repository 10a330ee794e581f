import { Redis } from 'ioredis'
import { peer } from '../peers/load.mjs'
import { redisOptions } from '../servers/redis-options.mjs'
import { LIMIT, loopOf, WINDOW_SECONDS } from './limiter-values.mjs'

const { RedisStore } = await peer('rate-limit-redis')

/** The store behind express-rate-limit, without its middleware. */
export async function open({ keys }) {
  const client = new Redis(redisOptions)
  const store = new RedisStore({ sendCommand: (...args) => client.call(...args) })
  await store.init({ windowMs: WINDOW_SECONDS * 1_000 })
  return loopOf(async (key) => (await store.increment(key)).totalHits <= LIMIT, keys)
}
