import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { startRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { type Handler, listener, type Request, serve, worker } from './app.ts'

const readme = (room: string): string =>
  readFileSync(new URL(`../../src/${room}/README.md`, import.meta.url), 'utf8')
const words = (text: string | undefined): string[] => (text ?? '').replaceAll('\\|', '|').split(' ')

/** The lines of the README as they stand there. */
const [blob, hash] = [...readme('session').matchAll(/ACL: `([^`]+)`/g)].map(([, line]) => words(line))
// Redis 7.0 knows no SETINFO, and says so when a rule names it.
const bus = words(/\| ACL \| `([^`]+)`/.exec(readme('bus'))?.[1]).filter((rule) => rule !== '+client|setinfo')

const formats: Record<string, [string[], (namespace: string) => Partial<SessionOptions>]> = {
  hash: [hash as string[], () => ({ absoluteTtl: '1h' })],
  blob: [[...(blob as string[]), ...(hash as string[])], () => ({ format: 'blob', name: 'sid' })],
}

for (const [format, [lines, optionsOf]] of Object.entries(formats)) {
  test(`format ${format}: all of it works with no more rights than the README asks for`, async () => {
    const redis = await startRedis()
    const namespace = testNamespace()
    const admin = redis.client()
    const rules = [...lines, ...bus].map((rule) =>
      rule.replace(/([~&])(ns|<namespace>):/, (_all, kind: string) => `${kind}${namespace}:`),
    )
    await admin.call(
      'ACL',
      'SETUSER',
      'app',
      'on',
      '>pw',
      'resetchannels',
      'resetkeys',
      '-@all',
      ...new Set(rules),
    )
    await admin.call('ACL', 'LOG', 'RESET')
    const ctx = worker(`redis://app:pw@127.0.0.1:${redis.port}`, namespace)
    const sessions = createSession(ctx, { secret: 'keyboard cat', touchEvery: 0, ...optionsOf(namespace) })
    const isHash = format === 'hash'
    const ended: unknown[] = []
    if (isHash) sessions.onRevoked((revoked) => ended.push(revoked))
    const asPromised = (run: (callback: (error: unknown, value?: unknown) => void) => unknown) =>
      new Promise((resolve, reject) => void run((error, value) => (error ? reject(error) : resolve(value))))
    const handler: Handler = async (req: Request, res) => {
      const { session, sessionStore: store, url } = req
      if (url === '/login') await (isHash ? sessions.login(req, 'ada') : session.incr('n'))
      if (url === '/rotate' && isHash) await sessions.rotate(req)
      if (url === '/update') await session.incr('n')
      if (url === '/change') session.at = Math.random()
      if (url === '/regenerate') await asPromised((callback) => session.regenerate(callback))
      if (url === '/logout') await asPromised((callback) => session.destroy(callback))
      if (url === '/all') {
        expect(await asPromised((callback) => store.length?.(callback))).toBeGreaterThan(0)
        expect(await asPromised((callback) => store.all?.(callback as never))).not.toEqual([])
        await asPromised((callback) => store.clear?.(callback))
      }
      res.end('ok')
    }
    const site = await serve(listener(sessions, handler))
    const jar = new CookieJar()
    for (const path of [
      'login',
      'change',
      'read',
      'update',
      'rotate',
      'read',
      'regenerate',
      'login',
      'logout',
    ]) {
      const reply = await get(`${site}/${path}`, { jar })
      expect([path, reply.status, reply.body]).toEqual([path, 200, 'ok'])
    }
    await get(`${site}/login`, { jar })
    if (isHash) {
      const user = sessions.forUser('ada')
      expect([await user.count(), (await user.list()).length]).toEqual([1, 1])
      expect(await user.destroyAll()).toBe(1)
      await until(() => ended.length > 1, { what: 'word of the ends' })
    }
    await get(`${site}/change`, { jar })
    expect((await get(`${site}/all`, { jar })).body).toBe('ok')
    const refused = (await admin.call('ACL', 'LOG')) as unknown[][]
    // Redis 7.0 has no CLIENT SETINFO, which clients send without being asked.
    const missed = refused.filter((entry) => !String(entry).includes('setinfo'))
    expect(missed.map((entry) => String(entry))).toEqual([])
  })
}
