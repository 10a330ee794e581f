import { sharedRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { sessionSuite } from '../suites/session-suite.ts'

sessionSuite('one Redis', async () => ({ url: sharedRedis().url, namespace: testNamespace }))

sessionSuite('a Redis Cluster of 3 masters', async () => {
  const { url } = await startRedisCluster()
  return { url, namespace: testNamespace }
})
