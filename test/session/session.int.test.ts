import type { SessionOptions } from '../../src/session/index.ts'
import { sharedRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { sessionSuite } from '../suites/session-suite.ts'
import type { Context } from './app.ts'

const blob = ({ keys }: Context): Partial<SessionOptions> => ({
  format: 'blob',
  prefix: `${keys.namespace}:sess:`,
  name: 'sid',
})

for (const [format, options] of Object.entries({ hash: () => ({}), blob })) {
  sessionSuite(`one Redis, format ${format}`, async () => ({
    url: sharedRedis().url,
    namespace: testNamespace,
    options,
  }))

  sessionSuite(`a Redis Cluster of 3 masters, format ${format}`, async () => {
    const { url } = await startRedisCluster()
    return { url, namespace: testNamespace, options }
  })
}
