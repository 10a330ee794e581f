import { RedisStore } from 'connect-redis'
import expressSession from 'express-session'
import { expect, test } from 'vitest'
import {
  createSession,
  createStore,
  type SessionMiddleware,
  type SessionOptions,
} from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { type Handler, listener, serve, worker } from './app.ts'

const redis = sharedRedisClient()
const secret = 'keyboard cat'
const handler: Handler = async ({ session, url }, res) => {
  const [, what, name = ''] = String(url).split('/')
  if (what === 'put') session[name] = 1
  if (what === 'logout') await new Promise((resolve) => session.destroy(resolve))
  const { cookie: _, ...data } = session
  res.end(JSON.stringify(data))
}

function setup() {
  const namespace = testNamespace()
  const prefix = `${namespace}:sess:`
  const ours = (options: Partial<SessionOptions>, during: Handler = handler) => {
    const ctx = worker(sharedRedis().url, namespace)
    return serve(listener(createSession(ctx, { secret, prefix, ...options }), during))
  }
  const theirs = () => {
    const store = new RedisStore({ client: sharedRedisClient(), prefix })
    const middleware = expressSession({ secret, resave: false, saveUninitialized: false, store })
    return serve(listener(middleware as unknown as SessionMiddleware, handler))
  }
  return { namespace, prefix, ours, theirs }
}

test('from express-session with connect-redis in two deploys: every session goes on, through both and back', async () => {
  const { namespace, prefix, ours, theirs } = setup()
  const old = await theirs()
  const first = await ours({ format: 'blob' })
  const second = await ours({ migrate: true })
  const jar = new CookieJar()
  await get(`${old}/put/a`, { jar })
  expect((await get(`${first}/put/b`, { jar })).json()).toEqual({ a: 1, b: 1 })
  expect(await redis.keys(`${namespace}:s:*`)).toEqual([])
  expect((await get(`${second}/put/c`, { jar })).json()).toEqual({ a: 1, b: 1, c: 1 })
  expect(await redis.keys(`${prefix}*`)).toEqual([])
  const [key = ''] = await redis.keys(`${namespace}:s:*`)
  expect(await redis.pttl(key)).toBeGreaterThan(0)
  expect((await get(`${first}/put/d`, { jar })).json()).toEqual({ a: 1, b: 1, c: 1, d: 1 })
  expect((await get(second, { jar })).json()).toEqual({ a: 1, b: 1, c: 1, d: 1 })
  await get(`${first}/logout`, { jar })
  for (const url of [first, second]) expect((await get(url, { jar })).json()).toEqual({})
})

test('what a worker of the first deploy changes while the session is moved is kept', async () => {
  const { ours } = setup()
  const second = await ours({ migrate: true })
  const jar = new CookieJar()
  const first = await ours({ format: 'blob' }, async (req, res) => {
    if (req.url === '/late') {
      await get(second, { headers: { cookie: jar.header() ?? '' } })
      req.session.late = 1
    } else req.session.early = 1
    res.end()
  })
  await get(first, { jar })
  const reply = await get(`${first}/late`, { jar })
  expect(reply.status).toBe(200)
  expect((await get(second, { jar })).json()).toEqual({ early: 1, late: 1 })
})

test('many workers move one session at the same time, and all keep what they change', async () => {
  const { ours } = setup()
  const first = await ours({ format: 'blob' })
  const jar = new CookieJar()
  await get(`${first}/put/a`, { jar })
  const others = await Promise.all([1, 2, 3].map(() => ours({ migrate: true })))
  const options = { headers: { cookie: jar.header() ?? '' } }
  const urls = [...others, first]
  await Promise.all(Array.from({ length: 20 }, (_, i) => get(`${urls[i % 4]}/put/f${i}`, options)))
  expect(Object.keys((await get(others[0] as string, options)).json<object>())).toHaveLength(21)
})

test('a session that is destroyed while it is moved stays destroyed', async () => {
  const { namespace, prefix, ours } = setup()
  const first = await ours({ format: 'blob' })
  for (let i = 0; i < 10; i++) {
    const jar = new CookieJar()
    await get(`${first}/put/a`, { jar })
    const second = await ours({ migrate: true })
    const options = { headers: { cookie: jar.header() ?? '' } }
    await Promise.all([get(second, options), get(`${first}/logout`, options), get(second, options)])
    expect(await redis.keys(`${prefix}*`)).toEqual([])
    expect(await redis.keys(`${namespace}:s:*`)).toEqual([])
  }
})

test('our store under express-session: no lost fields, and destroyed is destroyed', async () => {
  const namespace = testNamespace()
  let meanwhile: () => Promise<unknown> = async () => {}
  const open = (during: Handler) => {
    const store = createStore(worker(sharedRedis().url, namespace), { ttl: '1h' })
    const middleware = expressSession({ secret, resave: false, saveUninitialized: false, store })
    return serve(listener(middleware as unknown as SessionMiddleware, during))
  }
  const url = await open(handler)
  const slow = await open(async (req, res) => {
    await meanwhile()
    await handler(req, res)
  })
  const jar = new CookieJar()
  await get(`${url}/put/a`, { jar })
  const options = { headers: { cookie: jar.header() ?? '' } }
  meanwhile = () => get(`${url}/put/b`, options)
  await get(`${slow}/put/c`, options)
  expect((await get(url, options)).json()).toEqual({ a: 1, b: 1, c: 1 })
  meanwhile = () => get(`${url}/logout`, options)
  expect((await get(`${slow}/put/d`, options)).status).toBe(200)
  expect(await redis.keys(`${namespace}:*`)).toEqual([])
  expect(() => createStore(worker(sharedRedis().url, namespace), { prefix: 'x:' })).toThrow(
    /sharedSessionStore: prefix/,
  )
})
