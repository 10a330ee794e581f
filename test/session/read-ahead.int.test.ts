import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import express from 'express'
import { beforeEach, expect, test } from 'vitest'
import { createRateLimit } from '../../src/rate-limit/index.ts'
import { createSession, type SessionMiddleware, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get, keepAliveAgent } from '../helpers/http.ts'
import { type Monitor, monitor } from '../helpers/monitor.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy, type TcpProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { type Context, PATIENT, type Request, serve, worker } from './app.ts'

/** As many requests as it takes to know where they go. */
const WINDOW = 64
/** There and back well within what the limit gives Redis, 90 ms, and in which what was read early counts, 100 ms. */
const ONE_WAY_MS = 20

let redis: PrivateRedis
let proxy: TcpProxy
let ctx: Context

beforeEach(async () => {
  redis = await startRedis()
  proxy = await startProxy({ target: { port: redis.port } })
  ctx = worker(proxy.url(), testNamespace())
  await ctx.redis.ready()
})

interface Site {
  url: string
  jar: CookieJar
  sessions: SessionMiddleware
  warm(path?: string): Promise<void>
}

/** A limit, whatever stands between, the session, and a count in it. */
async function site({
  between = [],
  options,
}: {
  between?: express.RequestHandler[]
  options?: Partial<SessionOptions>
} = {}): Promise<Site> {
  const app = express()
  app.set('env', 'test') // its own error handler would print
  app.use(createRateLimit<express.Request>(ctx, { limit: 1_000_000, per: '1h' }))
  app.get('/files/:name', (_req, res) => void res.end('file'))
  for (const handler of between) app.use(handler)
  const sessions = createSession(ctx, { secret: 'keyboard cat', ...options })
  app.use(sessions)
  app.get('/read', (req, res) => void res.end(String((req as unknown as Request).session.count ?? 'none')))
  app.get('/count', (req, res) => {
    const { session } = req as unknown as Request
    session.count = Number(session.count ?? 0) + 1
    res.end(String(session.count))
  })
  const url = await serve(app)
  const jar = new CookieJar()
  await get(`${url}/count`, { jar })
  const agent = keepAliveAgent(8)
  return {
    url,
    jar,
    sessions,
    async warm(path = '/read') {
      for (let i = 0; i < WINDOW; i += 8)
        await Promise.all(Array.from({ length: 8 }, () => get(url + path, { jar, agent })))
    },
  }
}

/** The fastest of several: what the round trips alone take. */
async function fastest(url: string, jar: CookieJar): Promise<number> {
  const agent = keepAliveAgent(1)
  const times: number[] = []
  for (let i = 0; i < 8; i++) {
    const startedAt = performance.now()
    await get(url, { jar, agent })
    times.push(performance.now() - startedAt)
  }
  return Math.min(...times)
}

const clock = runningClock()

/** What is read early counts for so long; a request that a busy machine has kept for longer may read again. */
const FRESH_MS = 100

/** Sends so many requests one after the other; resolves to how many took too long for what was read early. */
async function oneByOne(count: number, url: string, jar: CookieJar): Promise<number> {
  let slow = 0
  for (let i = 0; i < count; i++) {
    const startedAt = performance.now()
    await get(url, { jar })
    if (performance.now() - startedAt >= FRESH_MS) slow++
  }
  return slow
}

/** What has been sent meanwhile, to the last: MONITOR tells it a little later than it is answered. */
async function commandsOf(work: () => Promise<void>): Promise<Monitor['sent']> {
  const { sent } = await monitor(redis.port)
  await work()
  await redis.client().echo('the end')
  await until(() => sent.some(({ name }) => name === 'echo'), { what: 'MONITOR to have told all' })
  return sent
}

test('a limit and a session behind it take one round trip together, and the same commands as before', async () => {
  const { url, jar, warm } = await site()
  proxy.delay(ONE_WAY_MS)
  const roundTrips = async (path: string): Promise<number> =>
    (await fastest(url + path, jar)) / (2 * ONE_WAY_MS)
  const before = [await roundTrips('/read'), await roundTrips('/count')]
  proxy.delay(0)
  await warm()
  proxy.delay(ONE_WAY_MS)
  const after = [await roundTrips('/read'), await roundTrips('/count')]
  proxy.delay(0)
  console.log(
    `round trips to read, to change: ${[before, after].map((each) => each.map((n) => n.toFixed(2)))}`,
  )
  expect(before[0]).toBeGreaterThan(1.9)
  expect(before[1]).toBeGreaterThan(2.9)
  expect(after[0]).toBeLessThan(1.7)
  expect(after[1]).toBeLessThan(2.7)

  let slow = 0
  const sent = await commandsOf(async () => {
    slow = await oneByOne(10, `${url}/count`, jar)
  })
  const sentOf = (wanted: string): number => sent.filter(({ name }) => name === wanted).length
  expect(sentOf('evalsha')).toBe(20)
  expect(sentOf('hgetall')).toBeGreaterThanOrEqual(10)
  expect(sentOf('hgetall')).toBeLessThanOrEqual(10 + slow)
})

test('requests that never come to the session load none', async () => {
  const { url, jar, warm } = await site()
  await warm()
  await warm('/files/app.js')
  let slow = 0
  const sent = await commandsOf(async () => {
    await oneByOne(10, `${url}/files/app.js`, jar)
    slow = await oneByOne(1, `${url}/read`, jar)
  })
  const reads = sent.filter(({ name }) => name === 'hgetall').length
  expect(reads).toBeGreaterThanOrEqual(1)
  expect(reads).toBeLessThanOrEqual(1 + slow)
})

test('a session that ends while a slow middleware stands in between is gone, and counts of others are seen', async () => {
  let hold: (() => void) | undefined
  let held: (() => void) | undefined
  const isHeld = (): Promise<void> =>
    new Promise((resolve) => {
      held = resolve
    })
  const slow: express.RequestHandler = (req, _res, next) => {
    if (req.headers['x-slow'] === undefined) return next()
    hold = next
    held?.()
  }
  const { url, jar, warm } = await site({ between: [slow] })
  await warm()
  const slowly = async (during: () => Promise<unknown>): Promise<string> => {
    const reached = isHeld()
    const reply = get(`${url}/read`, { jar, headers: { 'x-slow': '1' } })
    await reached
    const startedAt = performance.now()
    await during()
    // Longer than what was loaded early may be used.
    while (performance.now() - startedAt < 110) await new Promise((resolve) => setTimeout(resolve, 10))
    hold?.()
    return (await reply).body
  }
  expect(await slowly(() => get(`${url}/count`, { jar }))).toBe('2')
  const client = await ctx.redis.ready()
  const endAll = async (): Promise<void> => {
    const [key] = await (client as import('ioredis').Redis).keys(`${ctx.keys.namespace}:s:*`)
    await client.unlink(key as string)
  }
  expect(await slowly(endAll)).toBe('none')
})

test('the request goes on in the async context it has come to the session with', async () => {
  const context = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  const app = express()
  // On a connection of its own: so its answer may come before the session, which then is needed while on its way.
  app.use(createRateLimit<express.Request>(ctx, { algorithm: 'fixed-window', limit: 1_000_000, per: '1h' }))
  app.use((req, _res, next) => context.run(String(req.headers['x-name']), next))
  app.use(createSession(ctx, { secret: 'keyboard cat', ...PATIENT }))
  app.use((req, res) => {
    ;(req as unknown as Request).session.here = true
    seen.push(context.getStore())
    res.end()
  })
  const url = await serve(app)
  const jar = new CookieJar()
  for (let i = 0; i < WINDOW; i++) await get(url, { jar, headers: { 'x-name': `${i}` } })
  seen.length = 0
  proxy.delay(0, 20, 'down')
  for (let round = 0; round < 5; round++)
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        get(url, { jar, headers: { 'x-name': `name ${20 * round + i}` } }),
      ),
    )
  expect(seen.sort()).toEqual(Array.from({ length: 100 }, (_, i) => `name ${i}`).sort())
})

test('a cookie that a middleware in between replaces is the one that counts', async () => {
  const swap: express.RequestHandler = (req, _res, next) => {
    const other = req.headers['x-other']
    if (typeof other === 'string') req.headers.cookie = other
    next()
  }
  const { url, jar, warm } = await site({ between: [swap] })
  const second = new CookieJar()
  for (let i = 0; i < 5; i++) await get(`${url}/count`, { jar: second })
  await warm()
  const reply = await get(`${url}/read`, { jar, headers: { 'x-other': second.header() as string } })
  expect(reply.body).toBe('5')
})

test('a secret that is a function is asked where the session is needed, once', async () => {
  let asked = 0
  const { url, jar, warm } = await site({
    options: {
      secret: (req) => {
        if ((req as express.Request).get('x-tenant') !== undefined) asked += 1
        return 'keyboard cat'
      },
    },
  })
  await warm()
  expect((await get(`${url}/read`, { jar, headers: { 'x-tenant': 'a' } })).body).toBe('1')
  expect(asked).toBe(1)
})

test('Redis frozen: the limit lets it through alone, the session answers 503 within its timeout', async () => {
  const { url, jar, warm } = await site()
  await warm()
  proxy.freeze()
  const startedAt = clock()
  const { status } = await get(`${url}/read`, { jar })
  const ms = clock() - startedAt
  expect(status).toBe(503)
  expect(ms).toBeLessThan(500 + 400) // 400: for a busy machine
  proxy.unfreeze()
})

test('an error that nobody takes is none: a refused request, its early load failing', async () => {
  const strict = createRateLimit(ctx, { name: 'strict', limit: WINDOW + 1, per: '1h' })
  const sessions = createSession(ctx, { secret: 'keyboard cat' })
  const jar = new CookieJar()
  const url = await serve((req, res) =>
    strict(req, res, () =>
      sessions(req, res, () => {
        ;(req as Request).session.here = true
        res.end()
      }),
    ),
  )
  for (let i = 0; i <= WINDOW; i++) expect((await get(url, { jar })).status).toBe(200)
  const client = await ctx.redis.ready()
  const [key] = await (client as import('ioredis').Redis).keys(`${ctx.keys.namespace}:s:*`)
  await client.set(key as string, 'no hash')
  const unhandled: unknown[] = []
  const note = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', note)
  try {
    // Where Redis has not answered in time a limit counts alone for a while: then it takes some more to be refused.
    await until(async () => (await get(url, { jar })).status === 429, { what: 'a refusal' })
    const [, turn] = [await client.ping(), once(process, 'turn')]
    process.nextTick(() => process.emit('turn' as never))
    await turn
    expect(unhandled).toEqual([])
  } finally {
    process.off('unhandledRejection', note)
  }
})
