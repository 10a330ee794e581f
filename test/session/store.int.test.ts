import { createHash } from 'node:crypto'
import type { Redis } from 'ioredis'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { channels } from '../../src/core/channels.ts'
import { setProcessRole } from '../../src/core/role.ts'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, startRedis, testNamespace } from '../helpers/redis.ts'
import { app, type Context, countCommands, type Handler, listener, PATIENT, serve, worker } from './app.ts'

let ctx: Context
let redis: Redis

beforeAll(() => {
  redis = sharedRedisClient()
})

beforeEach(() => {
  ctx = worker(sharedRedis().url, testNamespace())
})

const user: Handler = (req, res) => {
  if (req.url === '/change') req.session.count = Number(req.session.count ?? 0) + 1
  if (req.url === '/add') req.session.added = true
  if (req.url === '/remove') delete req.session.added
  res.end(JSON.stringify(req.session))
}

/** A server and a visitor who has a session on it. */
async function visit(options: Partial<SessionOptions> = {}, handler = user): Promise<Visit> {
  const url = await app(ctx, options, handler)
  const jar = new CookieJar()
  await get(`${url}/change`, { jar })
  const sid = decodeURIComponent(jar.get('sid') ?? '').slice(2, 34)
  const key = `${ctx.keys.namespace}:s:${createHash('sha256').update(sid).digest('base64url')}`
  return { url, jar, sid, key }
}

interface Visit {
  url: string
  jar: CookieJar
  sid: string
  key: string
}

test('at rest: a hash under the hashed id, a field per key, times of the server, a TTL', async () => {
  const { key, sid } = await visit({ ttl: '1h' })
  const {
    cookie,
    '~created': created,
    '~touched': touched,
    '~rev': rev,
    ...fields
  } = await redis.hgetall(key)
  expect(fields).toEqual({ count: '1' })
  expect(JSON.parse(cookie ?? '')).toMatchObject({ originalMaxAge: null, httpOnly: true, path: '/' })
  const [seconds] = await redis.time()
  expect(Number(created)).toBeGreaterThan((Number(seconds) - 60) * 1_000)
  expect([touched, rev]).toEqual([created, created])
  const pttl = await redis.pttl(key)
  expect(pttl).toBeGreaterThan(3_500_000)
  expect(pttl).toBeLessThanOrEqual(3_600_000)
  expect(await redis.keys(`*${sid}*`)).toEqual([])
})

test('commands per request: none without a session, 1 to read, 2 to change, 2 when a touch is due', async () => {
  const { url, jar } = await visit()
  const lazy = worker(sharedRedis().url, testNamespace())
  const sent = await countCommands(ctx)
  const commandsOf = async (path: string, site = url) => {
    sent.length = 0
    await get(site + path, { jar })
    return [...sent]
  }
  expect(await commandsOf('/')).toEqual(['hgetall'])
  expect(await commandsOf('/change')).toEqual(['hgetall', 'evalsha'])
  expect(await commandsOf('/', await app(ctx, { touchEvery: 0 }, user))).toEqual(['hgetall', 'evalsha'])
  jar.clear()
  expect(await commandsOf('/')).toEqual([])
  await get(await app(lazy, {}, user))
  expect(lazy.redis.now, 'a connection nobody needed').toBeUndefined()
})

test('only what was changed is sent', async () => {
  const { url, jar, key } = await visit()
  await redis.hset(key, 'count', '41', 'elsewhere', '"kept"')
  const before = await redis.hgetall(key)
  await get(`${url}/add`, { jar })
  expect(await redis.hgetall(key)).toMatchObject({
    ...before,
    added: 'true',
    '~touched': expect.any(String),
    '~rev': String(Number(before['~rev']) + 1),
  })
  await get(`${url}/remove`, { jar })
  expect(await redis.hgetall(key)).not.toHaveProperty('added')
  expect((await get(`${url}/change`, { jar })).json()).toMatchObject({ count: 42, elsewhere: 'kept' })
})

test('many fields and large ones', async () => {
  const { url, jar } = await visit({ ...PATIENT, maxBytes: '2mb' }, (req, res) => {
    if (req.url === '/change') for (let i = 0; i < 5_000; i++) req.session[`field${i}`] = i
    if (req.url === '/large') req.session.large = 'x'.repeat(1_000_000)
    if (req.url === '/less') for (let i = 0; i < 4_999; i++) delete req.session[`field${i}`]
    const { large, ...rest } = req.session
    res.end(`${Object.keys(rest).length} ${String(large ?? '').length}`)
  })
  expect((await get(url, { jar })).body).toBe('5001 0')
  await get(`${url}/large`, { jar })
  await get(`${url}/less`, { jar })
  expect((await get(url, { jar })).body).toBe('2 1000000')
})

test('the expiry is renewed once touchEvery, or a tenth of its life, has passed; not before', async () => {
  for (const [options, idleMs] of [
    [{ ttl: '1h', touchEvery: '5m' }, 300_000],
    [{ cookie: { maxAge: '10m' }, touchEvery: '5m' }, 60_000],
  ] as const) {
    // With commit 'after' the answer waits for the touch.
    const { url, jar, key } = await visit({ ...options, commit: 'after' })
    const touchedAt = Number(await redis.hget(key, '~touched'))
    const ago = async (ms: number) => {
      await redis.hset(key, '~touched', touchedAt - ms)
      await redis.pexpire(key, 200_000)
      await get(url, { jar })
      const [[, pttl], [, touched]] = (await redis.multi().pttl(key).hget(key, '~touched').exec()) as [
        [null, number],
        [null, string],
      ]
      return pttl > 200_000 && Number(touched) >= touchedAt
    }
    expect(await ago(idleMs - 20_000)).toBe(false)
    expect(await ago(idleMs + 2_000)).toBe(true) // the worker knows the time of Redis as exactly as it was told
    expect(await ago(-60_000), 'touched in the future: somebody has a wrong clock').toBe(true)
    await redis.hset(key, '~touched', 'nonsense')
    await redis.pexpire(key, 200_000)
    await get(url, { jar })
    expect(await redis.pttl(key)).toBeGreaterThan(200_000)
  }
})

test('an expiry in the past ends the session, ever so far in the future is kept', async () => {
  const { url, jar, key } = await visit({}, (req, res) => {
    if (req.url === '/change') req.session.a = 1
    if (req.url === '/far') req.session.cookie.expires = new Date(8.64e15)
    if (req.url === '/past') req.session.cookie.expires = new Date(0)
    if (req.url !== '/') req.session.at = req.url
    res.end(String(req.session.at))
  })
  await get(`${url}/far`, { jar })
  expect(await redis.pttl(key)).toBeGreaterThan(8e15)
  expect((await get(url, { jar })).body).toBe('/far')
  await get(`${url}/past`, { jar: copy(jar) })
  expect(await redis.exists(key)).toBe(0)
})

test('a corrupted session is an error that names what is wrong: no crash, no new login, nothing overwritten', async () => {
  const corruptions: [(key: string) => Promise<unknown>, RegExp][] = [
    [(key) => redis.hset(key, 'count', '{'), /corrupted: field 'count' is no JSON/],
    [(key) => redis.hset(key, 'cookie', 'null'), /corrupted: its cookie/],
    [(key) => redis.hset(key, 'cookie', '"text"'), /corrupted: its cookie/],
    [(key) => redis.hdel(key, 'cookie'), /corrupted: its cookie is missing/],
    [(key) => redis.set(key, '{"a":1}', 'PX', 60_000), /corrupted: WRONGTYPE/],
  ]
  for (const [corrupt, message] of corruptions) {
    const { url, jar, key } = await visit()
    await corrupt(key)
    const dump = await redis.dumpBuffer(key)
    const reply = await get(`${url}/change`, { jar })
    expect(reply.status).toBe(500)
    expect(reply.body).toMatch(/^ERR_AS_ONE_SESSION /)
    expect(reply.body).toMatch(message)
    expect(reply.headers['set-cookie']).toBeUndefined()
    expect(await redis.dumpBuffer(key)).toEqual(dump)
  }
})

test('stored prototypes and reserved names are harmless', async () => {
  const { url, jar, key } = await visit({}, (req, res) => {
    if (req.url === '/change') req.session.fine = true
    const { session } = req
    res.end(
      JSON.stringify([
        session,
        typeof session.save,
        session.id === req.sessionID,
        (session as { admin?: unknown }).admin,
      ]),
    )
  })
  const evil = '{"admin":true}'
  await redis.hset(key, {
    constructor: evil,
    save: '"nope"',
    id: '"x"',
    req: '1',
    nested: `{"__proto__":${evil}}`,
    '~new': '?',
  })
  await redis.hset(key, '__proto__', evil)
  const [session, save, sameId, admin] = (await get(url, { jar })).json<[object, string, boolean, unknown]>()
  expect(Object.keys(session).sort()).toEqual(['cookie', 'fine', 'nested'])
  expect([(session as { nested: object }).nested, save, sameId, admin]).toEqual([{}, 'function', true, null])
  expect(Object.prototype).not.toHaveProperty('admin')
})

test('what JSON cannot hold is an error of the answer, and nothing of the request is saved', async () => {
  const { url, jar, key } = await visit({}, (req, res) => {
    req.session.other = req.url
    if (req.url === '/bigint') req.session.big = 1n
    if (req.url === '/cycle') req.session.cycle = req.session
    res.end('ok')
  })
  for (const [path, field] of [
    ['/bigint', 'big'],
    ['/cycle', 'cycle'],
  ]) {
    const reply = await get(url + path, { jar })
    expect([reply.status, reply.body]).toEqual([
      500,
      expect.stringContaining(`ERR_AS_ONE_SESSION session field '${field}'`),
    ])
    expect(await redis.hget(key, 'other')).toBe('"/change"')
  }
})

test('a change that comes too late is told as a conflict', async () => {
  const events: unknown[] = []
  const listen = (event: unknown) => events.push(event)
  channels.session.subscribe(listen)
  try {
    const { url, jar, key } = await visit({}, async (req, res) => {
      req.session.a = req.url
      if (req.url === '/gone') await redis.del(key)
      res.end('ok')
    })
    const reply = await get(`${url}/gone`, { jar })
    expect([reply.status, reply.headers['set-cookie']]).toEqual([200, undefined])
    expect(events).toEqual([{ event: 'conflict', reason: 'gone', key }])
  } finally {
    channels.session.unsubscribe(listen)
  }
})

test('scripts come back by themselves after SCRIPT FLUSH', async () => {
  // In a Redis of its own: other files count the commands that they send to the shared one.
  const own = await startRedis()
  ctx = worker(own.url, testNamespace())
  const { url, jar } = await visit()
  await own.client().script('FLUSH')
  expect((await get(`${url}/change`, { jar })).json()).toMatchObject({ count: 2 })
})

test('in a primary the middleware does nothing', async () => {
  const middleware = createSession(ctx, { secret: 'keyboard cat' })
  setProcessRole('primary')
  try {
    const reply = await get(await serve(listener(middleware, (req, res) => res.end(typeof req.session))))
    expect(reply.body).toBe('undefined')
  } finally {
    setProcessRole('alone')
  }
})

function copy(jar: CookieJar): CookieJar {
  const copied = new CookieJar()
  copied.set('sid', jar.get('sid') ?? '')
  return copied
}

test('a session of 5,000 fields: more than one command of a script takes, saved and changed like any other', async () => {
  const many: Handler = (req, res) => {
    for (let i = 0; i < 5_000; i++)
      if (req.url === '/fill' || i % 2) req.session[`f${i}`] = req.url === '/fill' ? 1 : 2
    res.end()
  }
  const { url, jar, key } = await visit({ ...PATIENT, maxBytes: '1mb' }, many)
  await get(`${url}/fill`, { jar })
  await get(`${url}/odd`, { jar })
  const stored = await redis.hgetall(key)
  const values = Array.from({ length: 5_000 }, (_, i) => stored[`f${i}`])
  expect(values).toEqual(Array.from({ length: 5_000 }, (_, i) => (i % 2 ? '2' : '1')))
})

test('a field that somebody else has changed beyond the thousandth is merged, not overwritten', async () => {
  let others: (() => Promise<unknown>) | undefined
  const many: Handler = async (req, res) => {
    if (req.url === '/odd') await others?.()
    for (let i = 0; i < 1_500; i++)
      req.session[`f${i}`] = {
        mine: req.url === '/odd' ? 1 : 0,
        ...(req.session[`f${i}`] as object),
        n: req.url,
      }
    res.end()
  }
  const { url, jar, key } = await visit({ ...PATIENT, maxBytes: '1mb' }, many)
  const before = JSON.parse((await redis.hget(key, 'f1400')) as string)
  others = () => redis.hset(key, 'f1400', JSON.stringify({ ...before, theirs: true }))
  await get(`${url}/odd`, { jar })
  expect(JSON.parse((await redis.hget(key, 'f1400')) as string)).toMatchObject({ theirs: true, n: '/odd' })
})
