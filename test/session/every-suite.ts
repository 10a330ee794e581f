import { beforeAll } from 'vitest'
import type { SessionOptions } from '../../src/session/index.ts'
import { sessionExactSuite } from '../suites/session-exact-suite.ts'
import { sessionLifeSuite } from '../suites/session-life-suite.ts'
import { sessionSuite } from '../suites/session-suite.ts'
import { sessionUsersSuite } from '../suites/session-users-suite.ts'
import type { Context } from './app.ts'

const blob = ({ keys }: Context): Partial<SessionOptions> => ({
  format: 'blob',
  prefix: `${keys.namespace}:sess:`,
  name: 'sid',
})

/** All that holds on one Redis holds on every other kind of it: one start for all suites. */
export function everySuite(name: string, start: () => Promise<string>, namespace: () => string): void {
  let url: string
  beforeAll(async () => {
    url = await start()
  })
  const open = async () => ({ url, namespace })
  for (const [format, options] of Object.entries({ hash: () => ({}), blob })) {
    sessionSuite(`${name}, format ${format}`, async () => ({ url, namespace, options }))
    sessionSuite(
      `${name}, format ${format}, under express-session`,
      async () => ({ url, namespace, options }),
      'express-session',
    )
  }
  sessionExactSuite(name, open)
  sessionUsersSuite(name, open)
  sessionLifeSuite(name, open)
}
