import { sharedRedis, testNamespace } from '../helpers/redis.ts'
import { everySuite } from './every-suite.ts'

everySuite('one Redis', async () => sharedRedis().url, testNamespace)
