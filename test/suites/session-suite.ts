import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get, type Reply } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'
import {
  type AnySession,
  app as anyApp,
  type Context,
  type Handler,
  PATIENT,
  type Request,
  type SuiteRedis,
  throughStore,
  watched,
  worker,
} from '../session/app.ts'

export interface SessionSuiteRedis extends SuiteRedis {
  /** The store under test; all tests name their cookie themselves. */
  options?(ctx: Context): Partial<SessionOptions>
}

const promised = (run: (callback: (error?: unknown, value?: unknown) => void) => unknown): Promise<unknown> =>
  new Promise((resolve, reject) => void run((error, value) => (error ? reject(error) : resolve(value))))

const count: Handler = (req, res) => {
  req.session.count = Number(req.session.count ?? 0) + 1
  res.end(String(req.session.count))
}
const read: Handler = (req, res) => res.end(JSON.stringify(req.session))

const setCookie = (reply: Reply): string => reply.headers['set-cookie']?.[0] ?? ''
const maxAge = { cookie: { maxAge: '1m' } } satisfies Partial<SessionOptions>

/** How express-session behaves, told in its observable results, on whatever Redis `open` gives. */
export function sessionSuite(
  name: string,
  open: () => Promise<SessionSuiteRedis>,
  through: 'our middleware' | 'express-session' = 'our middleware',
): void {
  /** What express-session does otherwise, whatever its store. */
  const own = test.skipIf(through === 'express-session')
  describe(`sessions on ${name}`, () => {
    let redis: ReturnType<typeof watched>
    let extra: SessionSuiteRedis['options']
    let ctx: Context
    let other: Context

    beforeAll(async () => {
      const opened = await open()
      redis = watched(opened)
      extra = opened.options
      const namespace = redis.namespace()
      ctx = worker(redis.url, namespace)
      other = worker(redis.url, namespace)
      await Promise.all([ctx.redis.ready(), other.redis.ready()])
    })

    afterEach(() => redis.expectTtls(ctx))

    const app: typeof anyApp = (ctx, options, ...rest) =>
      (through === 'express-session' ? throughStore : anyApp)(
        ctx,
        { ...PATIENT, ...extra?.(ctx), ...options },
        ...rest,
      )
    const store = async (): Promise<Request['sessionStore']> => {
      let found: Request['sessionStore'] | undefined
      const url = await app(ctx, {}, (req, res) => {
        found = req.sessionStore
        res.end()
      })
      await get(url)
      return found as Request['sessionStore']
    }
    const length = async (): Promise<unknown> => {
      const all = await store()
      return promised((callback) => all.length?.(callback))
    }

    describe('a new session', () => {
      test('is stored and gets its cookie when something is put into it', async () => {
        const url = await app(ctx, {}, count)
        const jar = new CookieJar()
        expect((await get(url, { jar })).body).toBe('1')
        expect(decodeURIComponent(jar.get('sid') ?? '')).toMatch(/^s:[\w-]{32}\.[\w+/]{43}$/)
        expect((await get(url, { jar })).body).toBe('2')
      })

      test('leaves no trace when nothing is put into it', async () => {
        const before = await length()
        const reply = await get(await app(ctx, {}, (_req, res) => res.end('ok')))
        expect(reply.headers['set-cookie']).toBeUndefined()
        expect(await length()).toBe(before)
      })

      test('is stored all the same with saveUninitialized', async () => {
        const before = Number(await length())
        const reply = await get(await app(ctx, { saveUninitialized: true }, (_req, res) => res.end('ok')))
        expect(setCookie(reply)).toMatch(/^sid=/)
        expect(await length()).toBe(before + 1)
      })

      test('shows its data and its cookie, nothing else', async () => {
        const url = await app(ctx, {}, (req, res) => {
          req.session.a = 1
          const seen: string[] = []
          for (const key in req.session) seen.push(key)
          res.end(`${seen.sort()} ${Object.keys(req.session).sort()}`)
        })
        expect((await get(url)).body).toBe('a,cookie a,cookie')
      })

      test('takes its id from genid, and is not stored under an id that is no string', async () => {
        const named = await get(await app(ctx, { genid: (req) => `id of ${req.url}` }, count))
        expect(decodeURIComponent(setCookie(named))).toMatch(/^sid=s:id of \/\./)
        const before = await length()
        const bogus = await app(ctx, {}, (req, res) => {
          Object.assign(req, { sessionID: () => {} })
          req.session.a = 1
          res.end('ok')
        })
        expect((await get(bogus)).headers['set-cookie']).toBeUndefined()
        expect(await length()).toBe(before)
      })

      own('is not made when there is one already, or outside the cookie path', async () => {
        const own = await app(
          ctx,
          { saveUninitialized: true },
          (req, res) => res.end(String(req.session.mine)),
          (req) => void Object.assign(req, { session: { mine: true } }),
        )
        const reply = await get(own)
        expect([reply.body, reply.headers['set-cookie']]).toEqual(['true', undefined])

        const options = { saveUninitialized: true, cookie: { path: '/admin' } }
        const url = await app(ctx, options, (req, res) => res.end(typeof req.session))
        const types = async (path: string) => (await get(url + path)).body
        expect(await types('/')).toBe('undefined')
        expect(await types('/administrator')).toBe('undefined')
        expect(await types('/admin')).toBe('object')
        expect(await types('/admin/users?a=/')).toBe('object')
      })
    })

    describe('a stored session', () => {
      test('is the same on another worker: 200 requests in turn count to exactly 200', async () => {
        const urls = [await app(ctx, {}, count), await app(other, {}, count)]
        const jar = new CookieJar()
        let last = ''
        for (let i = 0; i < 200; i++) last = (await get(urls[i % 2] as string, { jar })).body
        expect(last).toBe('200')
      })

      test('keeps what JSON keeps', async () => {
        const data = {
          text: 'ä\u2028"\ud800',
          none: null,
          list: [1, { a: [] }],
          yes: true,
          n: -1.5e-7,
          '': 'empty name',
        }
        const jar = new CookieJar()
        await get(
          await app(ctx, {}, (req, res) => {
            Object.assign(req.session, data, { when: new Date(0), '~own': 1, gone: undefined, fn: () => {} })
            res.end()
          }),
          { jar },
        )
        const { cookie, ...stored } = (await get(await app(other, {}, read), { jar })).json<AnySession>()
        expect(stored).toEqual({ ...data, when: '1970-01-01T00:00:00.000Z', '~own': 1 })
        expect(cookie).toMatchObject({ path: '/', httpOnly: true, originalMaxAge: null })
      })

      test('notices changes deep inside, added and deleted fields', async () => {
        const url = await app(ctx, {}, (req, res) => {
          const { session } = req
          if (req.url === '/make') session.cart = { items: [1] }
          if (req.url === '/push') (session.cart as { items: number[] }).items.push(2)
          if (req.url === '/cookie') Object.assign(session.cart as object, { cookie: 1 })
          if (req.url === '/delete') delete session.cart
          res.end(JSON.stringify(session.cart))
        })
        const jar = new CookieJar()
        await get(`${url}/make`, { jar })
        await get(`${url}/push`, { jar })
        await get(`${url}/cookie`, { jar })
        expect((await get(url, { jar })).json()).toEqual({ items: [1, 2], cookie: 1 })
        await get(`${url}/delete`, { jar })
        expect((await get(url, { jar })).body).toBe('')
      })

      test('that has expired gives way to a new one with a new id', async () => {
        const own = worker(redis.url, redis.namespace())
        const url = await app(own, { cookie: { maxAge: 60 } }, (req, res) => {
          if (req.url === '/length') req.sessionStore.length?.((_error, length) => res.end(String(length)))
          else count(req, res)
        })
        const jar = new CookieJar()
        const { headers } = await get(url, { jar })
        const cookie = headers['set-cookie']?.[0]?.split(';')[0] ?? ''
        const empty = async () => (await get(`${url}/length`)).body === '0'
        await until(empty, { what: 'the session to expire' })
        const reply = await get(url, { headers: { cookie } })
        expect(reply.body).toBe('1')
        expect(setCookie(reply)).toMatch(/^sid=/)
        expect(setCookie(reply).split(';')[0]).not.toBe(cookie)
      })

      test('is written back unchanged only with resave', async () => {
        for (const resave of [false, true]) {
          let sets = 0
          const url = await app(ctx, { resave }, (req, res) => {
            const { set } = req.sessionStore
            req.sessionStore.set = (...args) => {
              sets++
              return set.apply(req.sessionStore, args)
            }
            req.session.user = 'bob'
            res.end()
          })
          const jar = new CookieJar()
          await get(url, { jar })
          sets = 0
          await get(url, { jar })
          expect(sets > 0, `resave: ${resave}`).toBe(resave)
        }
      })

      test('survives req.session = null with unset keep, and not with destroy', async () => {
        for (const unset of ['keep', 'destroy'] as const) {
          const url = await app(ctx, { unset }, (req, res) => {
            if (req.url !== '/null') return count(req, res)
            Object.assign(req, { session: null })
            res.write('half ')
            return res.end('done')
          })
          const jar = new CookieJar()
          await get(url, { jar })
          expect((await get(`${url}/null`, { jar })).body).toBe('half done')
          expect((await get(url, { jar })).body, unset).toBe(unset === 'keep' ? '2' : '1')
        }
      })

      test("loads for express-session's own store methods", async () => {
        const jar = new CookieJar()
        let sid = ''
        const url = await app(ctx, {}, (req, res) => {
          sid = req.sessionID
          count(req, res)
        })
        await get(url, { jar })
        const all = await store()
        const loaded = (await promised((callback) => all.load(sid, callback))) as AnySession
        expect([loaded.count, loaded.id]).toEqual([1, sid])
        expect(await promised((callback) => all.load('nobody', callback))).toBeUndefined()
      })
    })

    describe('the methods of req.session', () => {
      test('regenerate: a new id, the old session gone', async () => {
        const url = await app(ctx, {}, async (req, res) => {
          if (req.url === '/login') {
            await promised((callback) => req.session.regenerate(callback))
            req.session.user = 'bob'
          } else req.session.seen = true
          res.end(JSON.stringify(req.session))
        })
        const jar = new CookieJar()
        await get(url, { jar })
        const old = same(jar)
        await get(`${url}/login`, { jar })
        expect(jar.get('sid')).not.toBe(old.get('sid'))
        const reader = await app(other, {}, read)
        expect((await get(reader, { jar })).json()).toMatchObject({ user: 'bob' })
        expect((await get(reader, { jar: old })).json()).not.toHaveProperty('seen')
      })

      test('regenerate alone is a modification', async () => {
        const url = await app(ctx, {}, async (req, res) => {
          await promised((callback) => req.session.regenerate(callback))
          res.end()
        })
        expect(setCookie(await get(url))).toMatch(/^sid=/)
      })

      test('destroy: gone in Redis and on the request, no cookie', async () => {
        const url = await app(ctx, {}, async (req, res) => {
          if (req.url !== '/logout') return count(req, res)
          await promised((callback) => req.session.destroy(callback))
          return res.end(String(req.session))
        })
        const jar = new CookieJar()
        await get(url, { jar })
        const reply = await get(`${url}/logout`, { jar })
        expect([reply.body, reply.headers['set-cookie']]).toEqual(['undefined', undefined])
        expect((await get(url, { jar })).body).toBe('1')
      })

      test('reload: what others have changed meanwhile; an error when it is gone', async () => {
        const jar = new CookieJar()
        const elsewhere = await app(other, {}, async (req, res) => {
          if (req.url === '/destroy') await promised((callback) => req.session.destroy(callback))
          else req.session.by = 'elsewhere'
          res.end()
        })
        const url = await app(ctx, {}, async (req, res) => {
          req.session.by = 'here'
          if (req.url === '/') return res.end()
          await get(elsewhere + req.url, { jar: same(jar) })
          await promised((callback) => req.session.reload(callback))
          return res.end(String(req.session.by))
        })
        await get(url, { jar })
        expect((await get(`${url}/change`, { jar })).body).toBe('elsewhere')
        const reply = await get(`${url}/destroy`, { jar })
        expect([reply.status, reply.body]).toEqual([500, expect.stringContaining('failed to load session')])
      })

      test('save: in Redis when it calls back; the end of the request does not save again', async () => {
        let sets = 0
        const url = await app(ctx, {}, async (req, res) => {
          const { sessionStore } = req
          const { set } = sessionStore
          sessionStore.set = (...args) => {
            sets++
            return set.apply(sessionStore, args)
          }
          req.session.a = 1
          await promised((callback) => req.session.save(callback))
          const stored = await promised((callback) => sessionStore.get(req.sessionID, callback as never))
          delete (sessionStore as { set?: unknown }).set
          res.end(JSON.stringify((stored as AnySession).a))
        })
        const reply = await get(url)
        expect([reply.body, sets]).toEqual(['1', 1])
        expect(setCookie(reply)).toMatch(/^sid=/)
      })

      test('touch and maxAge: the expiry moves, in the cookie and in Redis', async () => {
        const url = await app(ctx, { ...maxAge, touchEvery: 0 }, (req, res) => {
          if (req.url === '/longer') req.session.cookie.maxAge = 3_600_000
          req.session.user = 'bob'
          res.end(JSON.stringify(req.session.cookie.originalMaxAge))
        })
        const jar = new CookieJar()
        const began = Date.now()
        const reply = await get(url, { jar })
        expectExpiry(reply, 60_000, began)
        // express-session reads it back as what is left, so that a new millisecond makes it 59,999.
        expect(Number(reply.body)).toBeCloseTo(60_000, -3)
        expect(Number((await get(`${url}/longer`, { jar })).body)).toBeCloseTo(3_600_000, -3)
        const after = await get(url, { jar })
        expect(Number(after.body), 'kept although only the cookie was changed').toBeCloseTo(3_600_000, -3)
      })
    })

    describe('the cookie', () => {
      test('is sent again only when the session was changed and the cookie expires', async () => {
        const handler: Handler = (req, res) => (req.url === '/read' ? read(req, res) : count(req, res))
        for (const options of [{}, maxAge]) {
          const url = await app(ctx, options, handler)
          const jar = new CookieJar()
          await get(url, { jar })
          expect((await get(`${url}/read`, { jar })).headers['set-cookie']).toBeUndefined()
          expect((await get(url, { jar })).headers['set-cookie']?.length).toBe(
            'cookie' in options ? 1 : undefined,
          )
        }
      })

      test('is sent with every response of a stored session with rolling', async () => {
        const url = await app(ctx, { rolling: true, ...maxAge }, (req, res) =>
          req.url === '/' ? count(req, res) : res.end(),
        )
        const jar = new CookieJar()
        expect((await get(`${url}/nothing`, { jar })).headers['set-cookie']).toBeUndefined()
        await get(url, { jar })
        expect(setCookie(await get(`${url}/read`, { jar }))).toMatch(/^sid=/)
      })

      test('has the attributes of the options, and of what the request made of them', async () => {
        const cookie = {
          domain: 'example.com',
          httpOnly: false,
          sameSite: 'strict',
          priority: 'high',
          partitioned: true,
        } as const
        // For longer than this suite may take: others count the sessions that are there.
        const reply = await get(
          await app(ctx, { name: 'own', cookie: { ...cookie, maxAge: 3_600_000 } }, count),
        )
        expect(setCookie(reply)).toMatch(
          /^own=[^;]+; Domain=example\.com; Path=\/; Expires=[^;]+; Partitioned; Priority=High; SameSite=Strict$/,
        )
        const changed = await app(ctx, maxAge, (req, res) => {
          Object.assign(req.session.cookie, { expires: null, httpOnly: false, path: '/x' })
          count(req, res)
        })
        expect(setCookie(await get(changed))).toMatch(/^sid=[^;]+; Path=\/x$/)
      })

      own('that is secure is sent only over TLS, or what passes for it', async () => {
        const sent = async (options: Partial<SessionOptions>, headers = {}, secure?: boolean) => {
          const url = await app(ctx, options, count, (req) => void Object.assign(req, { secure }))
          return setCookie(await get(url, { headers })).replace(/=[^;]+/, '')
        }
        const https = { 'x-forwarded-proto': 'https,http' }
        const cookie = { secure: true }
        const name = extra?.(ctx).name ?? '__Host-sid'
        expect(await sent({ cookie })).toBe('')
        expect(await sent({ cookie }, https)).toBe('')
        expect(await sent({ cookie }, {}, true)).toBe(`${name}; Path=/; HttpOnly; Secure`)
        expect(await sent({ cookie, proxy: true }, https)).toBe(`${name}; Path=/; HttpOnly; Secure`)
        expect(await sent({ cookie, proxy: false }, https, true)).toBe('')
        const auto = { secure: 'auto', sameSite: 'auto' } as const
        for (const cookie of [auto, () => auto]) {
          expect(await sent({ cookie })).toBe('sid; Path=/; HttpOnly; SameSite=Lax')
          expect(await sent({ cookie }, {}, true)).toBe('sid; Path=/; HttpOnly; Secure; SameSite=None')
        }
      })

      own('may be made by a function of the request', async () => {
        const url = await app(ctx, { cookie: (req) => ({ path: req.url ?? '/', maxAge: '1h' }) }, count)
        const began = Date.now()
        const reply = await get(`${url}/here`)
        expect(setCookie(reply)).toContain('Path=/here; Expires=')
        expectExpiry(reply, 3_600_000, began)
        const broken = await app(ctx, { cookie: () => undefined as never }, count)
        expect((await get(broken)).status).toBe(500)
      })

      test('stands beside other cookies, however those are set', async () => {
        const shapes: Handler[] = [
          (_req, res) => res.setHeader('Set-Cookie', 'a=1').end(),
          (_req, res) => res.writeHead(200, { 'set-cookie': 'a=1' }).end(),
          (_req, res) => res.writeHead(200, 'fine', { 'Set-Cookie': ['a=1'] }).end(),
          (_req, res) => res.writeHead(200, ['X-A', '1', 'Set-Cookie', 'a=1']).end(),
        ]
        for (const shape of shapes) {
          const url = await app(ctx, {}, (req, res) => {
            req.session.a = 1
            shape(req, res)
          })
          expect((await get(url)).headers['set-cookie']).toEqual(['a=1', expect.stringMatching(/^sid=/)])
        }
      })

      test('is also found where cookie-parser puts it', async () => {
        const jar = new CookieJar()
        await get(await app(ctx, {}, count), { jar })
        const value = decodeURIComponent(jar.get('sid') ?? '')
        const parsed = (extra: object) => app(ctx, {}, count, (req) => void Object.assign(req, extra))
        expect((await get(await parsed({ cookies: { sid: value } }))).body).toBe('2')
        expect((await get(await parsed({ signedCookies: { sid: value.slice(2, 34) } }))).body).toBe('3')
        expect((await get(await parsed({ cookies: { sid: value.slice(2, 34) } }))).body).toBe('1')
      })

      own('is signed with the first secret and verified with all', async () => {
        const jar = new CookieJar()
        await get(await app(ctx, { secret: 'old' }, count), { jar })
        expect((await get(await app(ctx, { secret: ['new', 'old'] }, count), { jar: same(jar) })).body).toBe(
          '2',
        )
        expect(
          (
            await get(await app(ctx, { secret: () => [Buffer.from('new'), 'old'] }, count), {
              jar: same(jar),
            })
          ).body,
        ).toBe('3')
        expect((await get(await app(ctx, { secret: 'new' }, count), { jar: same(jar) })).body).toBe('1')
        const none = await get(await app(ctx, { secret: () => undefined }, count))
        expect([none.status, none.body]).toEqual([
          500,
          expect.stringMatching(/ERR_AS_ONE_SESSION .*secret is required/),
        ])
      })
    })

    describe('a store', () => {
      test('that says it is disconnected is left alone until it is back', async () => {
        let events: Request['sessionStore'] | undefined
        const url = await app(ctx, {}, (req, res) => {
          events = req.sessionStore ?? events
          res.end(typeof req.session)
        })
        const types = async () => (await get(url)).body
        expect(await types()).toBe('object')
        events?.emit('disconnect')
        expect(await types()).toBe('undefined')
        events?.emit('connect')
        expect(await types()).toBe('object')
      })

      test('counts, lists and clears its sessions on every master', async () => {
        const own = worker(redis.url, redis.namespace())
        const url = await app(own, {}, async (req, res) => {
          const { sessionStore } = req
          if (req.url === '/length')
            return res.end(String(await promised((callback) => sessionStore.length?.(callback))))
          if (req.url === '/clear')
            return res.end(String(await promised((callback) => sessionStore.clear?.(callback))))
          if (req.url === '/all') {
            const all = (await promised((callback) => sessionStore.all?.(callback as never))) as AnySession[]
            return res.end(JSON.stringify(all.map((session) => session.name).sort()))
          }
          req.session.name = req.url
          return res.end()
        })
        const names = Array.from({ length: 60 }, (_, index) => `/${index}`)
        await Promise.all(names.map((each) => get(url + each)))
        expect((await get(`${url}/length`)).body).toBe('60')
        expect((await get(`${url}/all`)).json()).toEqual(names.sort())
        await get(`${url}/clear`)
        expect((await get(`${url}/length`)).body).toBe('0')
        expect(await length()).toBeGreaterThan(0)
      })
    })

    describe('at the same time', () => {
      test('requests that change different fields keep all of them', async () => {
        const urls = await Promise.all([ctx, other].map((each) => app(each, {}, slowly)))
        const jar = new CookieJar()
        await get(`${urls[0]}/first`, { jar })
        const cookie = jar.header() ?? ''
        const replies = await Promise.all(
          Array.from({ length: 50 }, (_, index) =>
            get(`${urls[index % 2]}/field${index}`, { headers: { cookie } }),
          ),
        )
        expect(replies.map(({ status, body }) => `${status} ${body}`)).toEqual(Array(50).fill('200 '))
        const stored = (await get(await app(ctx, {}, read), { jar })).json<AnySession>()
        expect(Object.keys(stored).filter((key) => key.startsWith('/field'))).toHaveLength(50)
      })

      test('a destroyed session stays destroyed', async () => {
        const before = await length()
        let waiting = 0
        let go: () => void = () => {}
        const gate = new Promise<void>((resolve) => {
          go = resolve
        })
        const handler: Handler = async (req, res) => {
          if (req.url === '/logout') {
            await promised((callback) => req.session.destroy(callback))
            return res.end()
          }
          if (req.url !== '/') {
            waiting++
            await gate
          }
          if (req.url !== '/read') req.session[String(req.url)] = 1
          return res.end(String(req.session.id))
        }
        const options = { ...maxAge, touchEvery: 0, rolling: true }
        const urls = await Promise.all([ctx, other].map((each) => app(each, options, handler)))
        const jar = new CookieJar()
        await get(urls[0] as string, { jar })
        const cookie = jar.header() ?? ''
        const inFlight = Array.from({ length: 50 }, (_, index) =>
          get(`${urls[index % 2]}/${index % 3 === 0 ? 'read' : index}`, { headers: { cookie } }),
        )
        await until(() => waiting === 50, { what: 'all requests to have loaded the session' })
        await get(`${urls[1]}/logout`, { headers: { cookie } })
        go()
        const replies = await Promise.all(inFlight)
        expect(replies.map(({ status }) => status)).toEqual(Array(50).fill(200))
        const changed = replies.filter((_, index) => index % 3 !== 0)
        // express-session has sent it by the time its store hears of anything.
        if (through === 'our middleware') {
          expect(
            changed.filter(({ headers }) => headers['set-cookie']),
            'a cookie for a session that is gone',
          ).toEqual([])
        }
        expect(await length()).toBe(before)
      })
    })
  })
}

/** Lets the event loop turn a few times, so that parallel requests have all loaded before the first one saves. */
const slowly: Handler = async (req, res) => {
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate)
  req.session[String(req.url)] = 1
  res.end()
}

function same(jar: CookieJar): CookieJar {
  const copy = new CookieJar()
  const value = jar.get('sid')
  if (value !== undefined) copy.set('sid', value)
  return copy
}

/** The life begins somewhere between the request and now, and the header is cut to whole seconds. */
function expectExpiry(reply: Reply, ms: number, began: number): void {
  const now = Date.now()
  const expires = Date.parse(/Expires=([^;]+)/.exec(setCookie(reply))?.[1] ?? '')
  expect(expires).toBeGreaterThanOrEqual(Math.floor((began + ms) / 1_000) * 1_000)
  expect(expires).toBeLessThanOrEqual(now + ms)
}
