import { startSentinel, testNamespace } from '../helpers/redis.ts'
import { everySuite } from './every-suite.ts'

everySuite('Sentinel', async () => (await startSentinel()).url, testNamespace)
