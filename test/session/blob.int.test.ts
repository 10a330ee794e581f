import { createRequire } from 'node:module'
import { RedisStore } from 'connect-redis'
import expressSession from 'express-session'
import type { Redis } from 'ioredis'
import { beforeEach, expect, test } from 'vitest'
import { channels } from '../../src/core/channels.ts'
import { createSession, type SessionMiddleware, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { app, type Context, countCommands, type Handler, listener, serve, worker } from './app.ts'

let ctx: Context
let redis: Redis
let prefix: string

beforeEach(() => {
  ctx = worker(sharedRedis().url, testNamespace())
  redis = sharedRedisClient()
  prefix = `${ctx.keys.namespace}:sess:`
})

/** Each path sets the field of that name; `/read` changes nothing, `/logout` destroys, `/-x` deletes x. */
const user: Handler = async (req, res) => {
  const path = String(req.url).slice(1)
  if (path === 'logout') await new Promise((resolve) => req.session.destroy(resolve))
  else if (path.startsWith('-')) delete req.session[path.slice(1)]
  else if (path === 'count') req.session.count = Number(req.session.count ?? 0) + 1
  else if (path !== 'read') req.session[path] = true
  res.end(JSON.stringify(req.session))
}

const ours = (options: Partial<SessionOptions> = {}, handler = user) =>
  app(ctx, { format: 'blob', prefix, ...options }, handler)

/** What such users have: its session middleware, its store, their ioredis. */
const theirs = (handler = user, cookie = {}) =>
  serve(
    listener(
      expressSession({
        secret: 'keyboard cat',
        resave: false,
        saveUninitialized: false,
        cookie,
        store: new RedisStore({ client: redis, prefix }),
      }) as unknown as SessionMiddleware,
      handler,
    ),
  )

const sidOf = (jar: CookieJar) => decodeURIComponent(jar.get('connect.sid') ?? '').slice(2, 34)
const keyOf = (jar: CookieJar) => prefix + sidOf(jar)

test('at rest: a string under the plain id, JSON of the whole session, whole seconds to live', async () => {
  const jar = new CookieJar()
  await get(`${await ours({ ttl: '1h' })}/a`, { jar })
  expect(JSON.parse((await redis.get(keyOf(jar))) ?? '')).toEqual({
    cookie: { originalMaxAge: null, expires: null, httpOnly: true, path: '/' },
    a: true,
  })
  expect(await redis.ttl(keyOf(jar))).toBeGreaterThan(3_590)
  expect(await redis.keys(`${ctx.keys.namespace}:*`)).toEqual([keyOf(jar)])
  const began = performance.now()
  await get(`${await ours({ cookie: { maxAge: 3_599_500 } })}/a`, { jar: new CookieJar() })
  const [other = ''] = (await redis.keys(`${prefix}*`)).filter((key) => key !== keyOf(jar))
  const left = await redis.pttl(other)
  expect(left + (performance.now() - began), 'rounded up').toBeGreaterThanOrEqual(3_600_000 - 2)
})

test('one session with express-session and connect-redis: both write in turn, both read each other', async () => {
  for (const cookie of [{}, { maxAge: 3_600_000 }]) {
    const sites = [await ours({ cookie }), await theirs(user, cookie)]
    const jar = new CookieJar()
    for (let i = 0; i < 20; i++) {
      const reply = await get(`${sites[i % 2]}/count`, { jar })
      expect(reply.json()).toMatchObject({ count: i + 1 })
    }
    const sid = sidOf(jar)
    await get(`${sites[0]}/ours`, { jar })
    await get(`${sites[1]}/theirs`, { jar })
    await get(`${sites[0]}/-count`, { jar })
    for (const site of sites) {
      const { cookie: seen, ...data } = (await get(`${site}/read`, { jar })).json<Record<string, unknown>>()
      expect(data).toEqual({ ours: true, theirs: true })
      // express-session takes a millisecond off now and then (it looks at the clock twice), and stores that.
      const originalMaxAge = 'maxAge' in cookie ? expect.closeTo(cookie.maxAge ?? 0, -3) : null
      expect(seen).toMatchObject({ originalMaxAge, path: '/' })
    }
    expect(sidOf(jar), 'nobody was logged out').toBe(sid)
    expect(await redis.ttl(keyOf(jar))).toBeGreaterThan(3_500)
    await get(`${sites[1]}/logout`, { jar })
    expect((await get(`${sites[0]}/read`, { jar })).json()).not.toHaveProperty('ours')
  }
})

test('a session of theirs is read and changed by us, and the other way round, by their store alone', async () => {
  const store = new RedisStore({ client: redis, prefix })
  const jar = new CookieJar()
  const site = await ours()
  await get(`${site}/a`, { jar })
  expect(await store.get(sidOf(jar))).toMatchObject({ a: true, cookie: { path: '/' } })
  await store.set(sidOf(jar), {
    cookie: { path: '/', originalMaxAge: null },
    fromTheStore: 'ä\u2028"',
  } as never)
  expect((await get(`${site}/b`, { jar })).json()).toMatchObject({ fromTheStore: 'ä\u2028"', b: true })
  expect(await store.get(sidOf(jar))).toMatchObject({ fromTheStore: 'ä\u2028"', b: true })
  expect(await store.length()).toBe(1)
})

test('what anybody stores between our load and our save is kept', async () => {
  const store = new RedisStore({ client: redis, prefix })
  const site = await ours({}, async (req, res) => {
    if (req.url === '/first') Object.assign(req.session, { a: 1, b: 1, c: 1 })
    else {
      req.session.a = 2
      delete req.session.b
      const data = { cookie: req.session.cookie, a: 1, b: 5, c: 3, theirs: { deep: [] } }
      await store.set(req.sessionID, data as never)
    }
    res.end()
  })
  const jar = new CookieJar()
  await get(`${site}/first`, { jar })
  expect((await get(`${site}/second`, { jar })).status).toBe(200)
  const { cookie: _, ...stored } = JSON.parse((await redis.get(keyOf(jar))) ?? '')
  expect(stored).toEqual({ a: 2, b: 5, c: 3, theirs: { deep: [] } })
})

test('several saves in one request, a new session and one replaced', async () => {
  const site = await ours({}, async (req, res) => {
    const { session } = req
    const save = () => new Promise((resolve, reject) => session.save((e) => (e ? reject(e) : resolve(null))))
    session.a = 1
    await save()
    session.b = 1
    delete session.a
    await Promise.all([save(), save()])
    session.c = 1
    res.end()
  })
  const jar = new CookieJar()
  for (let i = 0; i < 2; i++) {
    expect((await get(site, { jar })).status).toBe(200)
    const { cookie: _, ...stored } = JSON.parse((await redis.get(keyOf(jar))) ?? '')
    expect(stored).toEqual({ b: 1, c: 1 })
  }
})

test('commands per request: 1 to read, 2 when a touch is due, 2 to change', async () => {
  const site = await ours({ ttl: '1h' })
  const jar = new CookieJar()
  await get(`${site}/a`, { jar })
  const sent = await countCommands(ctx)
  const commandsOf = async (url: string) => {
    sent.length = 0
    await get(url, { jar })
    return [...sent]
  }
  expect(await commandsOf(`${site}/read`)).toEqual(['get'])
  expect(await commandsOf(`${site}/b`)).toEqual(['get', 'evalsha'])
  const eager = await ours({ ttl: '2h', touchEvery: 0, commit: 'after' })
  expect(await commandsOf(`${eager}/read`)).toEqual(['get', 'expire'])
  expect(await redis.ttl(keyOf(jar))).toBeGreaterThan(7_000)
})

test('a change that comes too late is dropped and told as a conflict', async () => {
  const events: unknown[] = []
  const listen = (event: unknown) => events.push(event)
  channels.session.subscribe(listen)
  try {
    const jar = new CookieJar()
    const site = await ours({ cookie: { maxAge: '1h' } }, async (req, res) => {
      req.session.a = req.url
      if (req.url === '/gone') await redis.del(prefix + req.sessionID)
      res.end('ok')
    })
    await get(site, { jar })
    const key = keyOf(jar)
    const reply = await get(`${site}/gone`, { jar })
    expect([reply.status, reply.headers['set-cookie']]).toEqual([200, undefined])
    expect(events).toEqual([{ event: 'conflict', reason: 'gone', key }])
    expect(await redis.exists(key)).toBe(0)
  } finally {
    channels.session.unsubscribe(listen)
  }
})

test('a corrupted session is an error that says so: no crash, no new login, nothing overwritten', async () => {
  const site = await ours()
  const corruptions = ['{', '[]', '"text"', 'null', '{"a":1}', '{"cookie":null}', '{"cookie":"text"}']
  for (const text of [...corruptions, undefined]) {
    const jar = new CookieJar()
    await get(`${site}/a`, { jar })
    const key = keyOf(jar)
    if (text === undefined) {
      await redis.del(key)
      await redis.hset(key, 'a', '1')
    } else await redis.set(key, text, 'EX', 60)
    await redis.expire(key, 60)
    const dump = await redis.dumpBuffer(key)
    const reply = await get(`${site}/b`, { jar })
    expect([reply.status, reply.body]).toEqual([
      500,
      expect.stringContaining('ERR_AS_ONE_SESSION the stored session is corrupted'),
    ])
    expect(reply.headers['set-cookie']).toBeUndefined()
    expect(await redis.dumpBuffer(key)).toEqual(dump)
  }
})

test('stored prototypes and reserved names are harmless', async () => {
  const site = await ours()
  const jar = new CookieJar()
  await get(`${site}/a`, { jar })
  await redis.set(
    keyOf(jar),
    '{"cookie":{"path":"/"},"__proto__":{"admin":1},"constructor":{"prototype":{}},"save":1,"id":"x","n":{"\\u005f_proto__":{"x":1}}}',
    'EX',
    60,
  )
  const { cookie: _, ...data } = (await get(`${site}/b`, { jar })).json<Record<string, unknown>>()
  expect(data).toEqual({ n: {}, b: true })
  expect({}).not.toHaveProperty('admin')
})

test('connect-redis is loaded for this format only', async () => {
  const { cache, resolve } = createRequire(import.meta.url)
  delete cache[resolve('connect-redis')]
  createSession(ctx, { secret: 'keyboard cat' })
  expect(cache[resolve('connect-redis')]).toBeUndefined()
  createSession(ctx, { secret: 'keyboard cat', format: 'blob' })
  expect(cache[resolve('connect-redis')]).toBeDefined()
})
