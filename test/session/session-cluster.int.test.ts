import { startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { everySuite } from './every-suite.ts'

everySuite('a Redis Cluster of 3 masters', async () => (await startRedisCluster()).url, testNamespace)
