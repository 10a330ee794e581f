import { sharedRedis, sharedRedisClient, startRedisCluster } from '../helpers/redis.ts'
import { cacheLifeSuite } from '../suites/cache-life-suite.ts'

cacheLifeSuite('one Redis', async () => ({ url: sharedRedis().url, client: sharedRedisClient() }))

cacheLifeSuite('a Redis Cluster of three masters', async () => {
  const cluster = await startRedisCluster()
  const client = cluster.client()
  await client.ping()
  return { url: cluster.url, client }
})
