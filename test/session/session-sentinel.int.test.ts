import { startSentinel, testNamespace } from '../helpers/redis.ts'
import { everySuite } from './every-suite.ts'

// Nothing fails here: a busy machine's pause shall not be taken for the end of the master.
everySuite('Sentinel', async () => (await startSentinel({ downAfter: 60_000 })).url, testNamespace)
