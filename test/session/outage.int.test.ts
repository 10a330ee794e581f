import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import express, { type RequestHandler } from 'express'
import expressSession, { type Store } from 'express-session'
import { beforeEach, expect, test } from 'vitest'
import { channels } from '../../src/core/channels.ts'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { tempDir, track } from '../helpers/cleanup.ts'
import { CookieJar, get, keepAliveAgent, type Reply } from '../helpers/http.ts'
import { freePort } from '../helpers/ports.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy, type TcpProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { app, type Context, type Handler, PATIENT, type Request, serve, worker } from './app.ts'

const timeout = 500
/** For a busy machine; without our deadline it would be seconds. */
const margin = 400
const clock = runningClock()

let redis: PrivateRedis
let proxy: TcpProxy
let ctx: Context

beforeEach(async () => {
  redis = await startRedis()
  proxy = await startProxy({ target: { port: redis.port } })
  ctx = worker(proxy.url(), testNamespace())
  await ctx.redis.ready()
})

async function timed(promise: Promise<Reply>): Promise<Reply & { ms: number }> {
  const startedAt = clock()
  const reply = await promise
  return { ...reply, ms: clock() - startedAt }
}

function expectUnavailable({ status, body, headers, ms }: Reply & { ms: number }): void {
  expect([status, body]).toEqual([503, expect.stringContaining('sessions are unavailable: Redis at')])
  expect(headers['set-cookie']).toBeUndefined()
  expect(ms).toBeLessThan(timeout + margin)
}

const count: Handler = (req, res) => {
  req.session.count = Number(req.session.count ?? 0) + 1
  res.end(String(req.session.count))
}

/** Answers in the ways Express has. */
function expressApp(during: (req: Request) => void, options: Partial<SessionOptions> = {}): Promise<string> {
  const file = join(tempDir(), 'large.txt')
  writeFileSync(file, 'x'.repeat(500_000))
  const server = express()
  server.set('env', 'test') // its own error handler would print
  server.use(createSession(ctx, { secret: 'keyboard cat', ...options }))
  server.use((req, _res, next) => {
    const { session } = req as unknown as Request
    session.count = Number(session.count ?? 0) + 1
    during(req as unknown as Request)
    next()
  })
  const nested = express.Router()
  nested.get('/json', (_req, res) => void res.json({ ok: true }))
  nested.get('/redirect', (_req, res) => res.redirect('/elsewhere'))
  nested.get('/file', (_req, res) => res.sendFile(file))
  nested.get('/status', (_req, res) => void res.sendStatus(204))
  server.use('/to', nested)
  return serve(server)
}

const answers = { json: 200, redirect: 302, file: 200, status: 204 }

for (const [path, status] of Object.entries(answers)) {
  test(`Express, ${path}: Redis has the change before the client has a byte`, async () => {
    let freezes = false
    const url = await expressApp(() => freezes && proxy.freeze('down'), PATIENT)
    const jar = new CookieJar()
    await get(`${url}/to/json`, { jar })
    const direct = redis.client()
    const [key = ''] = await direct.keys('*:s:*')
    freezes = true

    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
    let received = ''
    socket.setEncoding('latin1').on('data', (chunk: string) => {
      received += chunk
    })
    socket.write(
      `GET /to/${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: ${jar.header()}\r\n\r\n`,
    )
    await until(async () => (await direct.hget(key, 'count')) === '2', {
      what: 'the save in Redis',
      every: 2,
    })
    expect(received).toBe('')
    proxy.unfreeze()
    await once(socket, 'close')
    expect(received).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
    if (path === 'file') expect(received.length).toBeGreaterThan(500_000)
  })

  test(`Express, ${path}: a save without an answer is a 503 in time`, async () => {
    const url = await expressApp(() => proxy.freeze())
    expectUnavailable(await timed(get(`${url}/to/${path}`)))
  })
}

test('Redis frozen: every request is answered in time, and the session is there again afterwards', async () => {
  const url = await app(ctx, {}, count)
  const jar = new CookieJar()
  await get(url, { jar })
  const cookie = jar.header() ?? ''
  await redis.pause()
  const waiting = Array.from({ length: 20 }, () => timed(get(url, { headers: { cookie } })))
  for (const reply of await Promise.all(waiting)) expectUnavailable(reply)
  await redis.resume()
  const back = async () => (await get(url, { headers: { cookie } })).status === 200
  await until(back, { what: 'sessions to be back' })
})

test('Redis gone: 503 in time; who needs no session is served; it comes back by itself', async () => {
  redis = await startRedis({ persist: true })
  ctx = worker(redis.url, testNamespace())
  const url = await app(ctx, {}, (req, res) => (req.url === '/nothing' ? res.end('served') : count(req, res)))
  const jar = new CookieJar()
  await get(url, { jar })
  await redis.kill()
  const cookie = jar.header() ?? ''
  for (let i = 0; i < 3; i++) expectUnavailable(await timed(get(url, { headers: { cookie } })))
  expectUnavailable(await timed(get(url)))
  expect((await get(`${url}/nothing`)).body).toBe('served')
  await redis.restart()
  const again = () => get(url, { headers: { cookie } })
  const reply = await until(
    async () => {
      const each = await again()
      return each.status === 200 && each
    },
    { what: 'sessions to be back' },
  )
  // Not 2: a change whose answer came too late has happened all the same.
  expect(Number(reply.body)).toBeGreaterThan(1)
})

test('a Redis that was never there: 503 in time, with the reason', async () => {
  const port = await freePort()
  const url = await app(worker(`redis://127.0.0.1:${port}`, testNamespace()), {}, count)
  const reply = await timed(get(url))
  expectUnavailable(reply)
  expect(reply.body).toContain('ECONNREFUSED')
})

test('a shorter timeout is kept as well; the callbacks of store and session hear of it', async () => {
  let heard: { code?: string; status?: number } = {}
  const url = await app(ctx, { timeout: '80ms' }, (req, res) => {
    req.session.a = 1
    proxy.freeze()
    req.session.save((error: { code?: string; status?: number }) => {
      heard = error
      res.end('not saved, not said')
    })
  })
  const reply = await timed(get(url))
  expect(reply.ms).toBeLessThan(80 + margin)
  expect(heard).toMatchObject({ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE', status: 503 })
  expectUnavailable(reply)
})

/** What four requests over one kept connection come to when the store cannot touch; 0: no answer. */
async function withoutTouch(
  sessions: RequestHandler,
  breakTouch: (store: Store) => unknown,
): Promise<number[]> {
  let store: Store | undefined
  const site = express()
  site.set('env', 'test')
  site.use(sessions)
  site.get('/login', (req, res) => {
    const { session, sessionStore } = req as unknown as Request
    session.a = 1
    store = sessionStore
    res.end()
  })
  site.get('/', (_req, res) => res.end('ok'))
  const url = await serve(site)
  const jar = new CookieJar()
  const agent = keepAliveAgent(1)
  await get(`${url}/login`, { jar, agent })
  await breakTouch(store as Store)
  const statuses: number[] = []
  for (let i = 0; i < 4; i++)
    statuses.push(
      await get(url, { jar, agent }).then(
        ({ status }) => status,
        () => 0,
      ),
    )
  return statuses
}

test('a touch that fails costs nothing; with express-session it costs the next request on that connection', async () => {
  const refused: Store['touch'] = (_sid, _session, callback) =>
    void setTimeout(callback as (error: unknown) => void, 20, new Error('no writes'))
  const told: unknown[] = []
  const listen = (event: unknown) => told.push(event)
  channels.session.subscribe(listen)
  track({ [Symbol.asyncDispose]: async () => void channels.session.unsubscribe(listen) })
  const ours = createSession(ctx, { secret: 'keyboard cat', touchEvery: 0 })
  const replies = await withoutTouch(ours as unknown as RequestHandler, () =>
    // Redis itself refuses, as one without memory or without enough replicas does.
    redis.client().config('SET', 'min-replicas-to-write', '3'),
  )
  expect(replies).toEqual([200, 200, 200, 200])
  await until(() => told.length === 4, { what: 'word of each touch' })
  expect(told).toEqual(Array(4).fill(expect.objectContaining({ event: 'touch-failed' })))
  const theirs = expressSession({ secret: 'keyboard cat', resave: false, saveUninitialized: false })
  const control = await withoutTouch(theirs as unknown as RequestHandler, (store) => {
    store.touch = refused
  })
  expect(control.filter((status) => status === 0).length).toBeGreaterThan(0)
})
