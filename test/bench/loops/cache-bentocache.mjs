import { Redis } from 'ioredis'
import { peer } from '../peers/load.mjs'
import { redisOptions } from '../servers/redis-options.mjs'
import { batchOf, checkValue, KEYS, keys, product } from './cache-values.mjs'

const { BentoCache, bentostore } = await peer('bentocache')
const { memoryDriver } = await peer('bentocache/drivers/memory')
const { redisBusDriver, redisDriver } = await peer('bentocache/drivers/redis')

export async function open({ what, call = 'getOrSet', tags = [], atOnce }) {
  const store = bentostore()
  if (what !== 'far') store.useL1Layer(memoryDriver({ maxItems: what === 'behind' ? KEYS / 2 : 10_000 }))
  store.useL2Layer(redisDriver({ connection: new Redis(redisOptions) }))
  store.useBus(redisBusDriver({ connection: redisOptions }))
  const cache = new BentoCache({ default: 'main', ttl: '5m', stores: { main: store } })
  const set = (n) => cache.set({ key: keys[n], value: product(n), tags })
  for (let n = 0; n < keys.length; n++) await set(n)
  const load = (n) => cache.getOrSet({ key: keys[n], factory: () => Promise.reject(new Error('not cached')) })
  const read = call === 'get' ? (n) => cache.get({ key: keys[n] }) : load
  return {
    batch: batchOf(what === 'set' ? set : read, atOnce),
    check: () => checkValue(read),
  }
}
