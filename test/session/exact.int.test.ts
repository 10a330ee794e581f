import { expect, test } from 'vitest'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { type Context, countCommands, type Handler, listener, serve, worker } from './app.ts'

const redis = sharedRedisClient()
const formats: Record<string, (namespace: string) => Partial<SessionOptions>> = {
  hash: () => ({}),
  blob: (namespace) => ({ format: 'blob', prefix: `${namespace}:b:`, name: 'sid' }),
  'hash, encrypted': () => ({ encrypt: { kid: 'k', key: Buffer.alloc(32, 7) } }),
}

for (const [format, optionsOf] of Object.entries(formats)) {
  const open = async (handler: Handler, namespace = testNamespace(), more: Partial<SessionOptions> = {}) => {
    const ctx: Context = worker(sharedRedis().url, namespace)
    const options = { secret: 'keyboard cat', ...optionsOf(namespace), ...more }
    const sessions = createSession<{ n: number; list: number[]; cart: Record<string, unknown> }>(ctx, options)
    return { ctx, sessions, namespace, url: await serve(listener(sessions, handler)) }
  }

  /** One request is under way while another one, of another worker, changes the session. */
  const meanwhile = async (first: object, mine: Handler, theirs: Handler, more?: Partial<SessionOptions>) => {
    const other = await open(async (req, res) => {
      if (req.url === '/first') Object.assign(req.session, first)
      if (req.url === '/theirs') await theirs(req, res)
      if (!res.writableEnded) res.end(JSON.stringify(req.session))
    })
    const jar = new CookieJar()
    await get(`${other.url}/first`, { jar })
    const { url } = await open(
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

  test(`${format}: changes of both sides in one field are merged, deletions stay deletions`, async () => {
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

  test(`${format}: the merge option decides about the same value`, async () => {
    const merge = { visits: 'add', 'cart.items': 'union', '*': 'theirs' } as const
    const { stored } = await meanwhile(
      { visits: 1, cart: { items: [1, 2] }, name: 'old' },
      ({ session }) => Object.assign(session, { visits: 2, cart: { items: [1, 2, 3] }, name: 'mine' }),
      ({ session }) => Object.assign(session, { visits: 2, cart: { items: [2] }, name: 'theirs' }),
      { merge },
    )
    expect(stored).toEqual({ visits: 3, cart: { items: [2, 3] }, name: 'theirs' })
  })

  test(`${format}: a save in the middle of a request does not undo what it was merged with`, async () => {
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

  test(`${format}: update() sees what is stored, saves what was changed before, and shows all of it`, async () => {
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

  test(`${format}: update() of a session that is new; of one that is gone`, async () => {
    const { url, namespace } = await open(async (req, res) => {
      if (req.url === '/gone') await redis.unlink(await redis.keys(`${namespace}:*`))
      res.end(String(await req.session.incr('n')))
    })
    const jar = new CookieJar()
    expect((await get(url, { jar })).body).toBe('1')
    expect((await get(url, { jar })).body).toBe('2')
    const reply = await get(`${url}/gone`, { jar })
    expect([reply.status, reply.headers['set-cookie']]).toEqual([409, undefined])
    expect(await redis.keys(`${namespace}:*`)).toEqual([])
  })

  test(`${format}: an update that throws, or is asynchronous, changes nothing and harms nobody`, async () => {
    const { url, ctx } = await open(async ({ session, url: path }, res) => {
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

  test(`${format}: 20 updates at once in one worker are few commands`, async () => {
    const { url, ctx } = await open(async ({ session, url: path }, res) => {
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

  test(`${format}: fields called like our methods are refused, not lost`, async () => {
    const { url } = await open(({ session }, res) => {
      Object.assign(session, { update: 1 })
      res.end('ok')
    })
    const reply = await get(url)
    expect([reply.status, reply.body]).toEqual([500, expect.stringContaining("'update' cannot be stored")])
  })
}
