import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
// @ts-expect-error: ws has no types of its own
import { WebSocket } from 'ws'
import { root, snippetsOf } from '../docs/snippets.ts'
import { track } from '../helpers/cleanup.ts'
import { CookieJar, get, request } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'
import { startExample } from './example.ts'

/** Wherever it is indented. */
const plain = (text: string): string => text.replace(/^\s+/gm, '')

for (const [framework, method] of [
  ['fastify', 'POST'],
  ['koa', 'GET'],
] as const) {
  test(`examples/sessions/${framework}.js: one counter over all workers, and a login keeps it`, async () => {
    const { url } = await startExample(`sessions/${framework}.js`, { workers: 2 })
    const jar = new CookieJar()
    const pids = new Set<number>()
    for (let views = 1; views <= 12; views++) {
      const page = (await get(url, { jar })).json<{ views: number; pid: number }>()
      expect(page.views).toBe(views)
      pids.add(page.pid)
    }
    expect(pids.size).toBe(2)
    const before = jar.get('sid')
    const path = framework === 'fastify' ? 'login/ada' : 'login'
    expect((await request(`${url}/${path}`, { jar, method })).status).toBeLessThan(304)
    expect(jar.get('sid')).not.toBe(before)
    const me = (await get(`${url}/me`, { jar })).json<{ user: string; same?: number; views?: number }>()
    expect([me.user, me.same ?? me.views]).toEqual(['ada', framework === 'koa' ? 14 : 12])
  })
}

describe('examples/sessions/sockets.js', () => {
  const open = (url: string, cookie: string) => {
    const ws = new WebSocket(url.replace('http', 'ws'), { headers: { cookie } })
    track({ [Symbol.asyncDispose]: async () => ws.terminate() })
    const seen: { pid?: number; user?: string; code?: number; refused?: number } = {}
    ws.on('message', (text: unknown) => Object.assign(seen, JSON.parse(String(text))))
    ws.on('close', (code: number) => Object.assign(seen, { code }))
    ws.on('error', () => {}) // 'close' follows
    ws.on('unexpected-response', (_req: unknown, { statusCode }: { statusCode: number }) =>
      Object.assign(seen, { refused: statusCode }),
    )
    return seen
  }

  test('sockets on both workers close when their session ends on one of them, and only those', async () => {
    const { url } = await startExample('sessions/sockets.js', { workers: 2 })
    const [ada, eve] = [new CookieJar(), new CookieJar()]
    await request(`${url}/login/ada`, { jar: ada, method: 'POST' })
    await request(`${url}/login/eve`, { jar: eve, method: 'POST' })
    const adas = Array.from({ length: 4 }, () => open(url, ada.header() ?? ''))
    const eves = open(url, eve.header() ?? '')
    const stranger = open(url, 'sid=nobody')
    await until(() => [...adas, eves].every(({ pid }) => pid), { what: 'the sockets to be open' })
    expect(new Set(adas.map(({ pid }) => pid)).size).toBe(2)
    expect([adas[0]?.user, eves.user]).toEqual(['ada', 'eve'])
    await until(() => stranger.refused === 401, { what: 'the refusal' })
    await request(`${url}/logout`, { jar: ada, method: 'POST' })
    await until(() => adas.every(({ code }) => code === 4401), { what: 'the sockets to be closed' })
    expect(eves.code).toBeUndefined()
  })
})

test("the session README's snippets are what the examples run", () => {
  const snippets = snippetsOf('src/session/README.md').map(({ code }) => plain(code))
  for (const [name, begin] of [
    ['fastify', 'await fastify.register'],
    ['koa', 'koa.use(sessions.koa)'],
    ['sockets', "server.on('upgrade'"],
  ] as const) {
    const example = plain(readFileSync(join(root, 'examples/sessions', `${name}.js`), 'utf8'))
    const [snippet = ''] = snippets.filter((each) => each.startsWith(begin))
    for (const line of snippet.split('\n')) expect(example, line).toContain(line)
    expect(snippet, name).not.toBe('')
  }
})
