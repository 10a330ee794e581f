import { startRedis, startRedisCluster } from '../helpers/redis.ts'
import { cacheSuite } from '../suites/cache-suite.ts'

// Servers of their own: the suite flushes them.
cacheSuite('one Redis', async () => {
  const server = await startRedis()
  return { url: server.url, client: server.client() }
})

cacheSuite('a Redis Cluster of three masters', async () => {
  const cluster = await startRedisCluster()
  const client = cluster.client()
  await client.ping()
  return { url: cluster.url, client }
})
