import { beforeEach, expect, test } from 'vitest'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get, keepAliveAgent } from '../helpers/http.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { until } from '../helpers/until.ts'
import { type Context, type Handler, listener, serve, worker } from './app.ts'

const timeout = 500
/** For a busy machine. */
const margin = 400
const clock = runningClock()

let redis: PrivateRedis
let ctx: Context

beforeEach(async () => {
  redis = await startRedis({ persist: true })
  ctx = worker(redis.url, testNamespace())
  await ctx.redis.ready()
})

/** What the middleware itself takes until it says no, by path, without the way there and back. */
async function site(options: Partial<SessionOptions> = {}, handler?: Handler) {
  const waits: Record<string, number[]> = {}
  const sessions = createSession(ctx, { secret: 'keyboard cat', ...options })
  const timed: typeof sessions = Object.assign(
    ((req, res, next) => {
      const began = clock()
      sessions(req, res, (error) => {
        const path = String(req.url)
        if (error) waits[path] = [...(waits[path] ?? []), clock() - began]
        next(error)
      })
    }) as typeof sessions,
    { ...sessions },
  )
  const count: Handler = ({ session, url }, res) => {
    if (url !== '/read') session.n = Number(session.n ?? 0) + 1
    res.end(String(session.n))
  }
  return { url: await serve(listener(timed, handler ?? count)), waits }
}

const outages: Record<string, { begin(): Promise<unknown>; end(): Promise<unknown> }> = {
  'kill -9': { begin: () => redis.kill(), end: () => redis.restart() },
  SIGSTOP: { begin: () => redis.pause(), end: () => redis.resume() },
  'CLIENT PAUSE': {
    begin: () => redis.client().call('CLIENT', 'PAUSE', '8000', 'ALL'), // longer than 300 requests may take
    end: async () => {}, // it waits for nobody's word, not even UNPAUSE
  },
}

for (const [name, { begin, end }] of Object.entries(outages)) {
  test(`${name}: read, changed and new are answered within 500 ms, then at once, and sessions are there again afterwards`, async () => {
    const { url, waits } = await site()
    const jar = new CookieJar()
    await get(`${url}/change`, { jar })
    const agent = keepAliveAgent()
    const visitor = { headers: { cookie: jar.header() ?? '' }, agent }
    const kinds: Record<string, typeof visitor | { agent: typeof agent }> = {
      '/read': visitor,
      '/change': visitor,
      '/new': { agent },
    }
    const paths = Object.keys(kinds)
    await begin()
    const all = await Promise.all([...paths, ...paths, ...paths].map((path) => get(url + path, kinds[path])))
    const longest = paths.map((path) => Math.max(...(waits[path] ?? [])))
    for (const path of paths) waits[path] = []
    for (let i = 0; i < 100; i++) for (const path of paths) all.push(await get(url + path, kinds[path]))
    const medians = paths.map((path) => (waits[path] ?? []).toSorted((a, b) => a - b)[50] as number)
    const told = (list: number[], digits: number) => list.map((ms) => ms.toFixed(digits)).join(' / ')
    console.log(
      `${name}, ${paths.join(' ')}: first answers within ${told(longest, 0)} ms, then ${told(medians, 2)} ms (medians of 100)`,
    )
    expect(all).toHaveLength(309)
    for (const { status, headers, body } of all) {
      expect([status, headers['set-cookie']]).toEqual([503, undefined])
      expect(body.match(/Redis at/g)).toHaveLength(1)
      expect(body).toContain('sessions are unavailable: ')
    }
    for (const ms of longest) expect(ms).toBeLessThan(timeout + margin)
    for (const ms of medians) expect(ms).toBeLessThan(1)
    await end()
    // Not 2: a change whose answer came too late has happened all the same.
    const back = async () => Number((await get(`${url}/change`, visitor)).body) >= 2
    await until(back, { what: 'the session to be back', deadline: 15_000 })
  })
}

test('CLIENT PAUSE WRITE: reads go on, saves fail at once after the first', async () => {
  const { url } = await site({}, ({ session, url: path }, res) => {
    if (path === '/change') session.n = Number(session.n ?? 0) + 1
    res.end(JSON.stringify(session.n))
  })
  const jar = new CookieJar()
  await get(`${url}/change`, { jar })
  await redis.client().call('CLIENT', 'PAUSE', '30000', 'WRITE')
  expect((await get(url, { jar })).body).toBe('1')
  expect((await get(`${url}/change`, { jar })).status).toBe(503)
  expect((await get(`${url}/change`, { jar })).status).toBe(503)
  await redis.client().call('CLIENT', 'UNPAUSE')
  await until(async () => (await get(`${url}/change`, { jar })).status === 200, { what: 'saves' })
})

test("onUnavailable 'anonymous': pages go on without a session, nothing is stored, no cookie is sent", async () => {
  const { url } = await site({ onUnavailable: 'anonymous' }, async ({ session, url: path }, res) => {
    session.n = Number(session.n ?? 0) + 1
    const errors: unknown[] = []
    if (path === '/explicit') {
      await session.incr('n').catch((error: { code: string }) => errors.push(error.code))
      await new Promise<void>((resolve) =>
        session.save((error: { code: string }) => {
          errors.push(error.code)
          resolve()
        }),
      )
    }
    res.end(`${session.n} ${errors}`)
  })
  const jar = new CookieJar()
  await get(url, { jar })
  expect((await get(url, { jar })).body).toBe('2 ')
  await redis.pause()
  const options = { headers: { cookie: jar.header() ?? '' } }
  for (const each of [options, {}]) {
    const reply = await get(url, each)
    expect([reply.status, reply.body, reply.headers['set-cookie']]).toEqual([200, '1 ', undefined])
  }
  const away = 'ERR_AS_ONE_REDIS_UNAVAILABLE'
  expect((await get(`${url}/explicit`, options)).body).toBe(`1 ${away},${away}`)
  await redis.resume()
  const back = async () => Number.parseInt((await get(url, options)).body, 10) >= 3
  await until(back, { what: 'the session to be back' })
})

test("onUnavailable 'anonymous': a change to a session that was loaded is not dropped in silence", async () => {
  const { url } = await site({ onUnavailable: 'anonymous' }, async ({ session, url: path }, res) => {
    if (path === '/freeze') await redis.pause()
    session.n = Number(session.n ?? 0) + 1
    res.end('ok')
  })
  const jar = new CookieJar()
  await get(url, { jar })
  expect((await get(`${url}/freeze`, { jar })).status).toBe(503)
  await redis.resume()
})
