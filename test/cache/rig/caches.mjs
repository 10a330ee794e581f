// The caches that the rig can run, behind one face. Arguments of each: URL of Redis, namespace.
import { peer } from './peers/load.mjs'

const TTL_MS = 5_000
const TIMEOUT_MS = 500

export const caches = {
  async 'as-one'(redis, namespace, options) {
    const { createShared, sharedCache } = await import('as-one')
    const settings = { ttl: TTL_MS, timeout: TIMEOUT_MS, lease: 500, ...options }
    const cache = redis ? createShared({ redis, namespace }).cache(settings) : sharedCache(settings)
    await cache.get('begin')
    return {
      get: (key) => cache.get(key),
      getOrSet: (key, load, tags) => cache.getOrSet(key, load, { tags }),
      set: (key, value, tags) => cache.set(key, value, { tags }),
      delete: (key) => cache.delete(key),
      deleteByTag: (tag) => cache.deleteByTag(tag),
      clear: () => cache.clear(),
    }
  },

  async bentocache(redis, namespace) {
    const { BentoCache, bentostore } = await peer('bentocache')
    const { redisDriver, redisBusDriver } = await peer('bentocache/drivers/redis')
    const { memoryDriver } = await peer('bentocache/drivers/memory')
    const { hostname: host, port } = new URL(redis)
    const connection = { host, port: Number(port), commandTimeout: TIMEOUT_MS, maxRetriesPerRequest: 1 }
    const store = bentostore()
      .useL1Layer(memoryDriver({ maxItems: 10_000 }))
      .useL2Layer(redisDriver({ connection }))
      .useBus(redisBusDriver({ connection }))
    const bento = new BentoCache({ default: 'rig', prefix: namespace, ttl: TTL_MS, stores: { rig: store } })
    return {
      get: (key) => bento.get({ key }),
      getOrSet: (key, factory, tags) => bento.getOrSet({ key, factory, tags }),
      set: (key, value, tags) => bento.set({ key, value, tags }),
      delete: (key) => bento.delete({ key }),
      deleteByTag: (tag) => bento.deleteByTag({ tags: [tag] }),
      clear: () => bento.clear(),
    }
  },

  async cacheable(redis, namespace) {
    const { Cacheable } = await peer('cacheable')
    const { default: KeyvRedis } = await peer('@keyv/redis')
    const { Qified } = await peer('qified')
    const { RedisMessageProvider } = await peer('@qified/redis')
    const qified = new Qified({ messageProviders: [new RedisMessageProvider({ uri: redis })] })
    const secondary = new KeyvRedis(redis, { namespace })
    const cache = new Cacheable({ secondary, ttl: TTL_MS, sync: { qified }, namespace })
    cache.on('error', () => {})
    return {
      get: (key) => cache.get(key),
      getOrSet: (key, load, tags) => cache.getOrSet(key, load, { ttl: TTL_MS, tags }),
      set: (key, value, tags) => cache.set(key, value, { ttl: TTL_MS, tags }),
      delete: (key) => cache.delete(key),
      deleteByTag: (tag) => cache.invalidateTag(tag),
      clear: () => cache.clear(),
    }
  },
}
