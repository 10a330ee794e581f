import { RedisStore } from 'connect-redis'
import expressSession from 'express-session'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { RedisClient } from '../../src/redis/client.ts'
import { createSession, type SessionMiddleware, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'
import {
  type Context,
  type Handler,
  keysIn,
  listener,
  PATIENT,
  type SuiteRedis,
  serve,
  watched,
  worker,
} from '../session/app.ts'

const secret = 'keyboard cat'
const handler: Handler = async ({ session, url }, res) => {
  const [, what, name = ''] = String(url).split('/')
  if (what === 'put') session[name] = 1
  if (what === 'logout') await new Promise((resolve) => session.destroy(resolve))
  const { cookie: _, ...data } = session
  res.end(JSON.stringify(data))
}

const show: Handler = ({ session, url }, res) => {
  if (url === '/login') session.user = 'ada'
  res.end(JSON.stringify(session.user ?? null))
}

async function loggedIn(url: string): Promise<CookieJar> {
  const jar = new CookieJar()
  await get(`${url}/login`, { jar })
  return jar
}

/** How sessions lie in Redis: how long, readable by whom, and how they get from one format to the other. */
export function sessionLifeSuite(name: string, open: () => Promise<SuiteRedis>): void {
  describe(`the life of sessions on ${name}`, () => {
    let where: ReturnType<typeof watched>
    let looker: Context
    let redis: RedisClient
    beforeAll(async () => {
      where = watched(await open())
      looker = worker(where.url, where.namespace())
      redis = await looker.redis.ready()
    })
    afterEach(() => where.expectTtls(looker))

    async function site(options: Partial<SessionOptions> = {}, namespace = where.namespace(), during = show) {
      const sessions = createSession(worker(where.url, namespace), { secret, ...PATIENT, ...options })
      return { sessions, namespace, url: await serve(listener(sessions, during)) }
    }

    const keyOf = async (namespace: string): Promise<string> =>
      (await keysIn(looker, `${namespace}:*`))[0] ?? ''

    for (const format of ['hash', 'blob'] as const) {
      test(`touchEvery, format ${format}: an idle session that is read lives on, renewed no more often than asked`, async () => {
        const namespace = where.namespace()
        const options = {
          format,
          ttl: '10m',
          commit: 'after',
          name: 'sid',
          ...(format === 'blob' && { prefix: `${namespace}:` }),
        } as const
        const [lazy, eager] = await Promise.all(
          ['1m', 0].map((touchEvery) => site({ ...options, touchEvery: touchEvery as '1m' }, namespace)),
        )
        const jar = await loggedIn(lazy?.url ?? '')
        const key = await keyOf(namespace)
        await redis.pexpire(key, 100_000)
        await get(lazy?.url ?? '', { jar })
        expect(await redis.pttl(key)).toBeLessThanOrEqual(100_000)
        expect((await get(eager?.url ?? '', { jar })).body).toBe('"ada"')
        expect(await redis.pttl(key)).toBeGreaterThan(590_000)
      })
    }

    test('encrypted at rest; a key ring that turns; an unknown key is an error, not a logout', async () => {
      const [old, next] = [
        { kid: 'old', key: Buffer.alloc(32, 1) },
        { kid: 'new', key: Buffer.alloc(32, 2) },
      ]
      const one = await site({ encrypt: old })
      const jar = await loggedIn(one.url)
      const key = await keyOf(one.namespace)
      expect(await redis.hget(key, 'user')).toMatch(/^~old~[\w-]+$/)
      expect(JSON.stringify(await redis.hgetall(key))).not.toContain('ada')
      const two = await site({ encrypt: [next, old] }, one.namespace, ({ session, url }, res) => {
        if (url === '/change') session.user = `${session.user}!`
        res.end(JSON.stringify(session.user ?? null))
      })
      expect((await get(two.url, { jar })).body).toBe('"ada"')
      await get(`${two.url}/change`, { jar })
      await get(`${two.url}/change`, { jar })
      expect(await redis.hget(key, 'user')).toMatch(/^~new~/)
      expect((await get(two.url, { jar })).body).toBe('"ada!!"')
      const reply = await get(one.url, { jar })
      expect([reply.status, reply.headers['set-cookie']]).toEqual([500, undefined])
      expect(reply.body).toContain(
        "field 'user' is encrypted with key 'new', which the encrypt option does not name",
      )
      // Another session's text in this one's place.
      const eve = new CookieJar()
      await get(`${one.url}/login`, { jar: eve })
      const others = (await keysIn(looker, `${one.namespace}:s:*`)).filter((each) => each !== key)
      await redis.hset(key, 'user', (await redis.hget(others[0] ?? '', 'user')) ?? '')
      expect((await get(two.url, { jar })).status).toBe(500)
    })

    test('absoluteTtl: used all the time, over all the same, also after a rotation', async () => {
      const absoluteTtl = 3_000
      const { url, namespace, sessions } = await site(
        { absoluteTtl, touchEvery: 0 },
        where.namespace(),
        async (req, res) => {
          if (req.url === '/rotate') await sessions.rotate(req)
          show(req, res)
        },
      )
      const began = performance.now()
      const jar = await loggedIn(url)
      await get(`${url}/rotate`, { jar })
      expect((await get(url, { jar })).body).toBe('"ada"')
      for (const key of await keysIn(looker, `${namespace}:s:*`)) {
        if (await redis.hexists(key, 'user')) expect(await redis.pttl(key)).toBeLessThanOrEqual(absoluteTtl)
      }
      await until(async () => (await get(url, { jar })).body === 'null', { what: 'the end', every: 20 })
      expect(performance.now() - began).toBeGreaterThan(absoluteTtl - 100)
    })

    function setup() {
      const namespace = where.namespace()
      const prefix = `${namespace}:sess:`
      const ours = (options: Partial<SessionOptions>, during: Handler = handler) => {
        const ctx = worker(where.url, namespace)
        return serve(listener(createSession(ctx, { secret, prefix, ...PATIENT, ...options }), during))
      }
      const theirs = () => {
        const store = new RedisStore({ client: redis, prefix })
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
      expect(await keysIn(looker, `${namespace}:s:*`)).toEqual([])
      expect((await get(`${second}/put/c`, { jar })).json()).toEqual({ a: 1, b: 1, c: 1 })
      expect(await keysIn(looker, `${prefix}*`)).toEqual([])
      const [key = ''] = await keysIn(looker, `${namespace}:s:*`)
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
      const replies = await Promise.all(
        Array.from({ length: 20 }, (_, i) => get(`${urls[i % 4]}/put/f${i}`, options)),
      )
      for (const { status, headers } of replies)
        expect([status, headers['set-cookie']]).toEqual([200, undefined])
      expect(Object.keys((await get(others[0] as string, options)).json<object>())).toHaveLength(21)
    })

    test('a session that another worker moves between our look at both places is found', async () => {
      const { ours, namespace } = setup()
      const first = await ours({ format: 'blob' })
      const jar = new CookieJar()
      await get(`${first}/put/a`, { jar })
      const options = { headers: { cookie: jar.header() ?? '' } }
      const mover = await ours({ migrate: true })
      const ctx = worker(where.url, namespace)
      const client = await ctx.redis.ready()
      // Nothing there yet as hash; by the time its blob is asked for, it is one.
      const { get: getBlob } = client
      let moved = false
      client.get = (async (key: string) => {
        if (!moved) {
          moved = true
          await get(mover, options)
        }
        return getBlob.call(client, key)
      }) as typeof client.get
      const prefix = `${namespace}:sess:`
      const sessions = createSession(ctx, { secret, prefix, migrate: true, ...PATIENT })
      const second = await serve(listener(sessions, handler))
      const reply = await get(`${second}/put/b`, options)
      expect([reply.json(), reply.headers['set-cookie']]).toEqual([{ a: 1, b: 1 }, undefined])
      expect(moved).toBe(true)
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
        expect(await keysIn(looker, `${prefix}*`)).toEqual([])
        expect(await keysIn(looker, `${namespace}:s:*`)).toEqual([])
      }
    })
  })
}
