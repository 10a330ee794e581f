import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import {
  type Context,
  countCommands,
  deleteIn,
  type Handler,
  keysIn,
  listener,
  PATIENT,
  type SuiteRedis,
  serve,
  watched,
  worker,
} from '../session/app.ts'

const formats: Record<string, (namespace: string) => Partial<SessionOptions>> = {
  hash: () => ({}),
  blob: (namespace) => ({ format: 'blob', prefix: `${namespace}:b:`, name: 'sid' }),
  'hash, encrypted': () => ({ encrypt: { kid: 'k', key: Buffer.alloc(32, 7) } }),
}

/** No lost update, and destroy wins, within one field and between requests of two workers, on whatever Redis `open` gives. */
export function sessionExactSuite(where: string, open: () => Promise<SuiteRedis>): void {
  for (const [format, optionsOf] of Object.entries(formats))
    describe(`exact on ${where}, format ${format}`, () => {
      let redis: ReturnType<typeof watched>
      let looker: Context
      beforeAll(async () => {
        redis = watched(await open())
        looker = worker(redis.url, redis.namespace())
      })
      afterEach(() => redis.expectTtls(looker))
      const site = async (
        handler: Handler,
        namespace = redis.namespace(),
        more: Partial<SessionOptions> = {},
      ) => {
        const ctx: Context = worker(redis.url, namespace)
        const options = { secret: 'keyboard cat', ...PATIENT, ...optionsOf(namespace), ...more }
        const sessions = createSession<{ n: number; list: number[]; cart: Record<string, unknown> }>(
          ctx,
          options,
        )
        return { ctx, sessions, namespace, url: await serve(listener(sessions, handler)) }
      }

      /** One request is under way while another one, of another worker, changes the session. */
      const meanwhile = async (
        first: object,
        mine: Handler,
        theirs: Handler,
        more?: Partial<SessionOptions>,
      ) => {
        const other = await site(async (req, res) => {
          if (req.url === '/first') Object.assign(req.session, first)
          if (req.url === '/theirs') await theirs(req, res)
          if (!res.writableEnded) res.end(JSON.stringify(req.session))
        })
        const jar = new CookieJar()
        await get(`${other.url}/first`, { jar })
        const { url } = await site(
          async (req, res) => {
            await get(`${other.url}/theirs`, { jar })
            await mine(req, res)
            if (!res.writableEnded) res.end()
          },
          other.namespace,
          more,
        )
        const copy = new CookieJar()
        copy.set('sid', jar.get('sid') ?? '')
        const reply = await get(url, { jar: copy })
        const { cookie: _, ...stored } = (await get(other.url, { jar })).json<Record<string, unknown>>()
        return { reply, stored }
      }

      test(`changes of both sides in one field are merged, deletions stay deletions`, async () => {
        const { stored } = await meanwhile(
          { cart: { a: 1, b: 1 }, gone: 1 },
          ({ session }) => {
            Object.assign(session.cart as object, { mine: 1 })
            delete session.gone
          },
          ({ session }) => {
            session.cart = { a: 2, theirs: 1 }
          },
        )
        expect(stored).toEqual({ cart: { a: 2, mine: 1, theirs: 1 } })
      })

      test(`the merge option decides about the same value`, async () => {
        const merge = { visits: 'add', 'cart.items': 'union', '*': 'theirs' } as const
        const { stored } = await meanwhile(
          { visits: 1, cart: { items: [1, 2] }, name: 'old' },
          ({ session }) => Object.assign(session, { visits: 2, cart: { items: [1, 2, 3] }, name: 'mine' }),
          ({ session }) => Object.assign(session, { visits: 2, cart: { items: [2] }, name: 'theirs' }),
          { merge },
        )
        expect(stored).toEqual({ visits: 3, cart: { items: [2, 3] }, name: 'theirs' })
      })

      test(`a save in the middle of a request does not undo what it was merged with`, async () => {
        const { stored } = await meanwhile(
          { cart: { a: 1 } },
          async ({ session }) => {
            Object.assign(session.cart as object, { mine: 1 })
            await new Promise((resolve) => session.save(resolve))
            Object.assign(session.cart as object, { later: 1 })
          },
          ({ session }) => Object.assign(session.cart as object, { theirs: 1 }),
        )
        expect(stored).toEqual({ cart: { a: 1, mine: 1, theirs: 1, later: 1 } })
      })

      test(`update() sees what is stored, saves what was changed before, and shows all of it`, async () => {
        let shown: unknown
        const { stored, reply } = await meanwhile(
          { n: 1, gone: 1 },
          async ({ session }, res) => {
            session.before = true
            expect(await session.update((data) => ++(data as { n: number }).n)).toBe(11)
            expect(await session.incr('deep.er.x', 2.5)).toBe(2.5)
            const { cookie: _, ...rest } = session
            shown = { ...rest }
            session.after = true
            res.end()
          },
          ({ session }) => {
            session.n = 10
            delete session.gone
            session.theirs = 1
          },
        )
        expect(reply.status).toBe(200)
        const all = { n: 11, before: true, theirs: 1, deep: { er: { x: 2.5 } } }
        expect(shown).toEqual(all)
        expect(stored).toEqual({ ...all, after: true })
      })

      test(`update() of a session that is new; of one that is gone`, async () => {
        const { url, namespace } = await site(async (req, res) => {
          if (req.url === '/gone') await deleteIn(looker, `${namespace}:*`)
          res.end(String(await req.session.incr('n')))
        })
        const jar = new CookieJar()
        expect((await get(url, { jar })).body).toBe('1')
        expect((await get(url, { jar })).body).toBe('2')
        const reply = await get(`${url}/gone`, { jar })
        expect([reply.status, reply.headers['set-cookie']]).toEqual([409, undefined])
        expect(await keysIn(looker, `${namespace}:*`)).toEqual([])
      })

      test(`an update that throws, or is asynchronous, changes nothing and harms nobody`, async () => {
        const { url, ctx } = await site(async ({ session, url: path }, res) => {
          if (path !== '/bad') {
            session.n ??= 0
            return void res.end(JSON.stringify(session.n))
          }
          const good = [1, 2].map(() => session.incr('n'))
          const bad = [
            session.update((data) => {
              Object.assign(data, { n: 100 })
              throw new Error('on purpose')
            }),
            session.update(async () => {}),
            session.update((data) => Object.assign(data, { big: 1n })),
            session.incr('n.deeper'),
            session.incr('n', Number.NaN),
          ]
          good.push(session.incr('n'))
          const told = await Promise.allSettled(bad)
          res.end(
            JSON.stringify([
              await Promise.all(good),
              told.map((each) => String((each as { reason: unknown }).reason)),
            ]),
          )
          return undefined
        })
        const jar = new CookieJar()
        await get(url, { jar })
        const [good, bad] = (await get(`${url}/bad`, { jar })).json<[number[], string[]]>()
        expect(good.sort()).toEqual([1, 2, 3])
        expect(bad.map((each) => each.split(': ').slice(1).join(': '))).toEqual([
          'on purpose',
          expect.stringContaining('must not be asynchronous'),
          expect.stringContaining("'big' cannot be stored"),
          expect.stringContaining("incr('n.deeper') needs a number there"),
          expect.stringContaining("incr('n') needs a number"),
        ])
        expect((await get(url, { jar })).body).toBe('3')
        expect(ctx.redis.now).toBeDefined()
      })

      test(`20 updates at once in one worker are few commands`, async () => {
        const { url, ctx } = await site(async ({ session, url: path }, res) => {
          if (path === '/many') await Promise.all(Array.from({ length: 20 }, () => session.incr('n')))
          res.end(String(session.n))
        })
        const jar = new CookieJar()
        expect((await get(`${url}/many`, { jar })).body).toBe('20')
        const sent = await countCommands(ctx)
        expect((await get(`${url}/many`, { jar })).body).toBe('40')
        expect(sent.length).toBeLessThanOrEqual(4)
        expect((await get(url, { jar })).body).toBe('40')
      })

      test(`fields called like our methods are refused, not lost`, async () => {
        const { url } = await site(({ session }, res) => {
          Object.assign(session, { update: 1 })
          res.end('ok')
        })
        const reply = await get(url)
        expect([reply.status, reply.body]).toEqual([
          500,
          expect.stringContaining("'update' cannot be stored"),
        ])
      })

      const parallel = async (requests: number, handler: Handler): Promise<Record<string, unknown>> => {
        const first = await site(handler)
        const urls = [first.url, (await site(handler, first.namespace)).url]
        const jar = new CookieJar()
        await get(`${urls[0]}/start`, { jar })
        const headers = { cookie: jar.header() ?? '' }
        const replies = await Promise.all(
          Array.from({ length: requests }, (_, i) => get(`${urls[i % 2]}/${i}`, { headers })),
        )
        expect(new Set(replies.map(({ status }) => status))).toEqual(new Set([200]))
        return (await get(`${urls[1]}/read`, { headers })).json()
      }

      test('50 requests change 50 places in one field at the same time: 50 survive', async () => {
        const { cart } = await parallel(50, async ({ session, url }, res) => {
          if (url === '/start') session.cart = {}
          else if (url !== '/read') {
            for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate)
            Object.assign(session.cart as object, { [String(url)]: 1 })
          }
          res.end(JSON.stringify(session))
        })
        expect(Object.keys(cart as object)).toHaveLength(50)
      })

      test('50 update() and 50 incr() at the same time count to exactly 50', async () => {
        const stored = await parallel(50, async ({ session, url }, res) => {
          if (url === '/start') session.n = 0
          else if (url !== '/read') {
            await session.update((data) => (data as { n: number }).n++)
            await session.incr('deep.n')
          }
          res.end(JSON.stringify(session))
        })
        expect(stored).toMatchObject({ n: 50, deep: { n: 50 } })
      })

      test('an update that is under way when the session is destroyed does not bring it back', async () => {
        const namespace = redis.namespace()
        const other = await site(async ({ session, url }, res) => {
          if (url === '/logout') await new Promise((resolve) => session.destroy(resolve))
          else session.n = 0
          res.end()
        }, namespace)
        const jar = new CookieJar()
        await get(other.url, { jar })
        const headers = { cookie: jar.header() ?? '' }
        const { url } = await site(async ({ session }, res) => {
          await get(`${other.url}/logout`, { headers })
          const [told] = await Promise.allSettled([session.incr('n')])
          res.end(String((told as { reason?: { status: number } }).reason?.status))
        }, namespace)
        expect((await get(url, { headers })).body).toBe('409')
        expect(await keysIn(looker, `${namespace}:*`)).toEqual([])
      })
    })
}
