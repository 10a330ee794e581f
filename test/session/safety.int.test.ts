import { createHmac } from 'node:crypto'
import { afterEach, expect, test, vi } from 'vitest'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { type Handler, listener, serve, worker } from './app.ts'

const redis = sharedRedisClient()
const secret = 'keyboard cat'

const show: Handler = ({ session, url }, res) => {
  if (url === '/login') session.user = 'ada'
  if (url === '/big') session.big = 'x'.repeat(70_000)
  res.end(JSON.stringify(session.user ?? null))
}

async function site(options: Partial<SessionOptions> = {}, namespace = testNamespace(), handler = show) {
  const ctx = worker(sharedRedis().url, namespace)
  const sessions = createSession(ctx, { secret, ...options })
  return { sessions, namespace, url: await serve(listener(sessions, handler)) }
}

async function loggedIn(url: string): Promise<CookieJar> {
  const jar = new CookieJar()
  await get(`${url}/login`, { jar })
  return jar
}

const keyOf = async (namespace: string): Promise<string> => (await redis.keys(`${namespace}:s:*`))[0] ?? ''

afterEach(() => {
  vi.useRealTimers()
})

test('cookies that are not ours: no session, no error, no cookie, and Redis is not even asked', async () => {
  const { url, namespace } = await site()
  const jar = await loggedIn(url)
  const value = decodeURIComponent(jar.get('sid') ?? '')
  const sid = value.slice(2, 34)
  const forged = createHmac('sha256', 'guess').update(sid).digest('base64').slice(0, 43)
  const bad = [
    sid,
    `s:${sid}`,
    `s:${sid}.${forged}`,
    value.slice(0, -1),
    value.slice(1),
    `${value}x`,
    `s:${'a'.repeat(5_000)}.${forged}`,
  ]
  for (const each of bad) {
    const reply = await get(url, { headers: { cookie: `sid=${encodeURIComponent(each)}` } })
    expect([reply.status, reply.body, reply.headers['set-cookie']]).toEqual([200, 'null', undefined])
  }
  const twice = `sid=forged; sid=s:${sid}.${forged}; sid=${jar.get('sid')}`
  expect((await get(url, { headers: { cookie: twice } })).body).toBe('"ada"')
  expect(await redis.keys(`${namespace}:*`)).toHaveLength(1)
})

test('what is stored and cannot be read is an error, never a new session', async () => {
  const { url, namespace } = await site()
  const damages: [string, string][] = [
    ['user', '{"name":'],
    ['user', ''],
    ['user', '~k1~AAAA'],
    ['cookie', 'null'],
    ['cookie', '['],
  ]
  for (const [field, text] of damages) {
    const jar = await loggedIn(url)
    const key = await keyOf(namespace)
    await redis.hset(key, field, text)
    const reply = await get(`${url}/login`, { jar })
    expect([reply.status, reply.headers['set-cookie']]).toEqual([500, undefined])
    expect(reply.body).toContain('ERR_AS_ONE_SESSION the stored session is corrupted')
    expect(await redis.hget(key, field)).toBe(text)
    await redis.unlink(key)
  }
})

test('keys that name prototypes are dropped on the way in and out', async () => {
  const { url, namespace } = await site({}, testNamespace(), ({ session, url: path }, res) => {
    if (path === '/put') session.deep = JSON.parse('{"__proto__":{"admin":1},"a":1}')
    res.end(JSON.stringify([session.deep, ({} as { admin?: unknown }).admin, Object.keys(session).sort()]))
  })
  const jar = new CookieJar()
  await get(`${url}/put`, { jar })
  await redis.hset(
    await keyOf(namespace),
    '__proto__',
    '{"admin":1}',
    'constructor',
    '{"prototype":{"admin":1}}',
  )
  expect((await get(url, { jar })).json()).toEqual([{ a: 1 }, null, ['cookie', 'deep']])
})

test('a session that is too large is not saved, and the error names the field', async () => {
  const { url } = await site()
  const jar = await loggedIn(url)
  const reply = await get(`${url}/big`, { jar })
  expect([reply.status, reply.headers['set-cookie']]).toEqual([500, undefined])
  expect(reply.body).toMatch(/more than maxBytes allows \(65536\); its largest field is 'big' with 70005/)
  expect((await get(url, { jar })).body).toBe('"ada"')
})

test('a cookie signed with an old secret is replaced by one signed with the first', async () => {
  const namespace = testNamespace()
  const [old, both, next] = await Promise.all(
    [['old'], ['new', 'old'], ['new']].map((each) => site({ secret: each }, namespace)),
  )
  const jar = await loggedIn(old?.url ?? '')
  const before = jar.get('sid')
  expect((await get(next?.url ?? '', { jar })).body).toBe('null')
  const reply = await get(both?.url ?? '', { jar })
  expect([reply.body, reply.headers['set-cookie']?.length]).toEqual(['"ada"', 1])
  expect(jar.get('sid')).not.toBe(before)
  expect((await get(next?.url ?? '', { jar })).body).toBe('"ada"')
  expect((await get(both?.url ?? '', { jar })).headers['set-cookie']).toBeUndefined()
})

test("a worker's clock that jumps a day ends no session and keeps none", async () => {
  const { url, namespace } = await site({ touchEvery: 0, cookie: { maxAge: '1h' } })
  const jar = await loggedIn(url)
  for (const jump of [86_400_000, -86_400_000]) {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + jump })
    expect((await get(url, { headers: { cookie: jar.header() ?? '' } })).body).toBe('"ada"')
    const pttl = await redis.pttl(await keyOf(namespace))
    expect(pttl).toBeGreaterThan(3_500_000)
    expect(pttl).toBeLessThanOrEqual(3_600_000)
    vi.useRealTimers()
  }
})

test('a change of the cookie is not undone by a request that only reads meanwhile', async () => {
  const namespace = testNamespace()
  const options: Partial<SessionOptions> = { touchEvery: 0, cookie: { maxAge: '1m' } }
  const other = await site(options, namespace, ({ session, url }, res) => {
    if (url === '/remember') session.cookie.maxAge = 86_400_000
    else session.user = 'ada'
    res.end()
  })
  const jar = await loggedIn(other.url)
  const copy = { headers: { cookie: jar.header() ?? '' } }
  const slow = await site(options, namespace, async (req, res) => {
    await get(`${other.url}/remember`, copy)
    if (req.url === '/change') req.session.late = 1
    res.end()
  })
  for (const path of ['/', '/change']) {
    await get(slow.url + path, copy)
    await until(async () => (await redis.pttl(await keyOf(namespace))) > 86_000_000, {
      what: 'the longer life',
    })
    const { originalMaxAge } = JSON.parse((await redis.hget(await keyOf(namespace), 'cookie')) ?? '')
    expect(originalMaxAge).toBeCloseTo(86_400_000, -3) // express-session looks at the clock twice
  }
})

const many = 10_000

test(`${many} sessions of one user: listed, counted and ended, nobody else's`, {
  timeout: 60_000,
}, async () => {
  const { url, sessions, namespace } = await site({}, testNamespace(), async (req, res) => {
    await sessions.login(req, 'ada')
    res.end()
  })
  await get(url)
  const key = await keyOf(namespace)
  const [index = ''] = await redis.keys(`${namespace}:u:*`)
  const fields = await redis.hgetall(key)
  for (let i = 1; i < many; i += 500) {
    const pipeline = redis.pipeline()
    for (let j = i; j < Math.min(many, i + 500); j++) {
      const id = String(j).padStart(43, '0')
      pipeline.hset(`${namespace}:s:${id}`, fields).pexpire(`${namespace}:s:${id}`, 600_000)
      pipeline.zadd(index, String(Date.now() + 600_000), id)
    }
    await pipeline.exec()
  }
  const foreign = `${namespace}:s:${'x'.repeat(43)}`
  await redis.hset(foreign, { ...fields, '~user': 'eve' })
  await redis.pexpire(foreign, 600_000)
  await redis.zadd(index, '99999999999999', 'x'.repeat(43))
  const user = sessions.forUser('ada')
  expect([await user.count(), (await user.list()).length]).toEqual([many, many])
  // A login among so many costs no more than any.
  const began = performance.now()
  expect((await get(url)).status).toBe(200)
  console.log(`a login beside ${many} sessions of the user: ${(performance.now() - began).toFixed(1)} ms`)
  expect(await user.destroyAll()).toBe(many + 1)
  expect(await redis.keys(`${namespace}:*`)).toEqual([foreign])
})
