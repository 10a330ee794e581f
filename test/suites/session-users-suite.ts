import { once } from 'node:events'
import http from 'node:http'
import { connect, type Socket } from 'node:net'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { RedisClient } from '../../src/redis/client.ts'
import {
  createSession,
  type Revoked,
  type SessionMiddleware,
  type SessionOptions,
} from '../../src/session/index.ts'
import { track } from '../helpers/cleanup.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'
import {
  type Context,
  deleteIn,
  type Handler,
  keysIn,
  listener,
  PATIENT,
  type Request,
  type SuiteRedis,
  serve,
  watched,
  worker,
} from '../session/app.ts'

interface Site {
  ctx: Context
  sessions: SessionMiddleware<{ cart: string[]; user: string }>
  url: string
}

async function visitor(url: string, ...paths: string[]): Promise<CookieJar> {
  const jar = new CookieJar()
  for (const path of paths) expect((await get(url + path, { jar })).status).toBe(200)
  return jar
}

const copyOf = (jar: CookieJar): CookieJar => {
  const copy = new CookieJar()
  copy.set('sid', jar.get('sid') ?? '')
  return copy
}

/** Answers upgrades with the session's end; the protocol does not matter. */
async function socketServer({ sessions }: Site): Promise<{ port: number; open(): number }> {
  let open = 0
  const server = http.createServer()
  server.on('upgrade', async (req, socket: Socket) => {
    socket.on('error', () => {})
    const session = await sessions.fromRequest(req).catch(() => undefined)
    if (!session) return socket.end('HTTP/1.1 401 no\r\n\r\n')
    socket.write(
      `HTTP/1.1 101 ok\r\nUser: ${session.userId}\r\nData: ${JSON.stringify(session.data)}\r\n\r\n`,
    )
    open++
    socket.on('close', () => open--)
    session.signal.addEventListener('abort', () => socket.end((session.signal.reason as Revoked).reason))
    return undefined
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  track({ [Symbol.asyncDispose]: async () => void server.close() })
  return { port: (server.address() as { port: number }).port, open: () => open }
}

function upgrade(port: number, jar: CookieJar): { text(): string; ended(): boolean } {
  const socket = connect(port, '127.0.0.1')
  track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
  let [text, ended] = ['', false]
  socket.setEncoding('utf8').on('data', (chunk) => {
    text += chunk
  })
  socket.on('close', () => {
    ended = true
  })
  socket.write(
    `GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: test\r\nCookie: ${jar.header() ?? 'a=b'}\r\n\r\n`,
  )
  return { text: () => text, ended: () => ended }
}

/** Logins, new ids, users and the end of sessions, seen from two workers, on whatever Redis `open` gives. */
export function sessionUsersSuite(name: string, open: () => Promise<SuiteRedis>): void {
  describe(`users on ${name}`, () => {
    let where: ReturnType<typeof watched>
    let looker: Context
    let redis: RedisClient
    beforeAll(async () => {
      where = watched(await open())
      looker = worker(where.url, where.namespace())
      redis = await looker.redis.ready()
    })
    afterEach(() => where.expectTtls(looker))

    /** A worker of one site: /login/<user>, /logout, /put/<field>, /rotate, anything else shows the session. */
    async function site(
      namespace: string,
      options: Partial<SessionOptions> = {},
      during?: (req: Request, sessions: SessionMiddleware) => unknown,
    ): Promise<Site> {
      const ctx = worker(where.url, namespace)
      const sessions = createSession<{ cart: string[]; user: string }>(ctx, {
        secret: 'keyboard cat',
        ...PATIENT,
        ...options,
      })
      const handler: Handler = async (req, res) => {
        const [, what, name = ''] = decodeURIComponent(String(req.url)).split('/')
        await during?.(req, sessions)
        if (what === 'login') await sessions.login(req, name)
        if (what === 'rotate') await sessions.rotate(req, name === '' ? {} : { grace: Number(name) })
        if (what === 'put') Object.assign(req.session, { [name]: 1 })
        if (what === 'logout') await new Promise((resolve) => req.session.destroy(resolve))
        const { cookie: _, ...data } = req.session ?? {}
        res.end(JSON.stringify({ ...data, userId: req.session && sessions.userId(req) }))
      }
      return { ctx, sessions, url: await serve(listener(sessions, handler)) }
    }

    test('login: a new id with all that was there, noted for the user; the old id is worth nothing', async () => {
      const namespace = where.namespace()
      const [one, two] = [await site(namespace), await site(namespace)]
      const jar = await visitor(one.url, '/put/cart')
      const before = copyOf(jar)
      expect((await get(`${one.url}/login/ada`, { jar })).json()).toEqual({ cart: 1, userId: 'ada' })
      expect(jar.get('sid')).not.toBe(before.get('sid'))
      expect((await get(`${two.url}/`, { jar })).json()).toEqual({ cart: 1, userId: 'ada' })
      const old = await get(`${two.url}/put/evil`, { jar: before })
      expect(old.json()).toEqual({ evil: 1 })
      expect(old.headers['set-cookie'], 'which would replace the cookie of the login').toBeUndefined()
      expect((await get(two.url, { jar })).json()).toEqual({ cart: 1, userId: 'ada' })
    })

    test('login of a visitor without a session', async () => {
      const { url, sessions } = await site(where.namespace())
      const jar = await visitor(url, '/login/ada')
      expect((await get(url, { jar })).json()).toEqual({ userId: 'ada' })
      expect(await sessions.forUser('ada').count()).toBe(1)
    })

    test('what a request changes that was under way at the login is in the new session', async () => {
      let go: () => void = () => {}
      let waiting = false
      const gate = new Promise<void>((resolve) => {
        go = resolve
      })
      const { url } = await site(where.namespace(), {}, (req) => {
        if (!req.url?.startsWith('/put/late')) return undefined
        waiting = true
        return gate
      })
      const jar = await visitor(url, '/put/early')
      const late = get(`${url}/put/late`, { jar: copyOf(jar) })
      await until(() => waiting, { what: 'the request to have loaded its session' })
      await get(`${url}/login/ada`, { jar })
      go()
      const reply = await late
      expect([reply.status, reply.headers['set-cookie']]).toEqual([200, undefined])
      expect((await get(url, { jar })).json()).toEqual({ early: 1, late: 1, userId: 'ada' })
    })

    test('rotate: for the grace period the old id opens the session, afterwards it opens nothing', async () => {
      const { url, sessions } = await site(where.namespace())
      const jar = await visitor(url, '/login/ada')
      const before = copyOf(jar)
      await get(`${url}/rotate/3000`, { jar }) // as long as a busy machine may take for the next two
      expect(jar.get('sid')).not.toBe(before.get('sid'))
      const old = await get(`${url}/put/a`, { jar: copyOf(before) })
      expect([old.json(), old.headers['set-cookie']]).toEqual([{ a: 1, userId: 'ada' }, undefined])
      expect((await get(url, { jar })).json()).toEqual({ a: 1, userId: 'ada' })
      expect(await sessions.forUser('ada').count()).toBe(1)
      await until(async () => (await get(url, { jar: copyOf(before) })).body === '{}', {
        what: 'the grace to end',
      })
      const none = await visitor(url, '/put/x')
      await get(`${url}/rotate/0`, { jar: copyOf(none) })
      expect((await get(url, { jar: none })).json()).toEqual({})
    })

    test('a logout with the old id ends the session under its new one', async () => {
      const { url, sessions } = await site(where.namespace())
      const jar = await visitor(url, '/login/ada')
      const before = copyOf(jar)
      await get(`${url}/rotate`, { jar })
      await get(`${url}/logout`, { jar: before })
      expect((await get(url, { jar })).json()).toEqual({})
      expect(await sessions.forUser('ada').count()).toBe(0)
    })

    test('a session destroyed during its login or rotation is not brought back', async () => {
      for (const path of ['/login/ada', '/rotate']) {
        const namespace = where.namespace()
        const other = await site(namespace)
        const jar = await visitor(other.url, '/put/a')
        const { url } = await site(namespace, {}, async (req) => {
          if (req.url === path) await get(`${other.url}/logout`, { jar: copyOf(jar) })
        })
        const reply = await get(url + path, { jar: copyOf(jar) })
        expect([reply.status, reply.headers['set-cookie']]).toEqual([409, undefined])
        expect(await keysIn(looker, `${namespace}:s:*`)).toEqual([])
      }
    })

    test('two logins of one old id at the same time: both clients are logged in, whichever cookie they keep', async () => {
      const { url } = await site(where.namespace())
      const jar = await visitor(url, '/put/a')
      const jars = [copyOf(jar), copyOf(jar)]
      await Promise.all(jars.map((each) => get(`${url}/login/ada`, { jar: each })))
      for (const each of jars) expect((await get(url, { jar: each })).json()).toEqual({ a: 1, userId: 'ada' })
    })

    test('forUser lists and counts the living, on all workers; log out everywhere but here', async () => {
      const namespace = where.namespace()
      const [one, two] = [await site(namespace), await site(namespace)]
      const jars = await Promise.all(
        [one, two, one, two].map(({ url }) => visitor(url, '/put/cart', '/login/ada')),
      )
      await visitor(one.url, '/login/eve')
      const user = two.sessions.forUser('ada')
      const all = await user.list()
      expect(all.map(({ data }) => data)).toEqual(Array(4).fill({ cart: 1 }))
      expect(Math.abs(Number(all[0]?.createdAt) - Date.now())).toBeLessThan(60_000)
      await get(`${one.url}/logout`, { jar: jars[0] as CookieJar })
      expect(await user.count()).toBe(3)
      const [some] = await user.list()
      expect(await two.sessions.forUser('eve').destroy(some?.id ?? '')).toBe(false)
      expect(await user.destroy(some?.id ?? '')).toBe(true)
      expect(await user.count()).toBe(2)
      const left = (
        await Promise.all(jars.map(async (jar) => ({ jar, reply: await get(two.url, { jar }) })))
      ).filter(({ reply }) => reply.body.includes('ada'))
      const here = left[0]?.jar as CookieJar
      const sid = decodeURIComponent(here.get('sid') ?? '').slice(2, 34)
      expect(await user.destroyAll({ except: sid })).toBe(1)
      expect((await get(one.url, { jar: here })).json()).toEqual({ cart: 1, userId: 'ada' })
      expect(await user.destroyAll()).toBe(1)
      expect([await user.count(), await one.sessions.forUser('eve').count()]).toEqual([0, 1])
    })

    test('sessions that have expired are not listed, and the index forgets them by itself', async () => {
      const namespace = where.namespace()
      const { url, sessions } = await site(namespace, { cookie: { maxAge: 200 } })
      const lasting = await site(namespace)
      await visitor(url, '/login/ada')
      await visitor(lasting.url, '/login/ada')
      const user = sessions.forUser('ada')
      await until(async () => (await user.count()) === 1, { what: 'the short session to expire' })
      expect(await user.list()).toHaveLength(1)
      const [index = ''] = await keysIn(looker, `${namespace}:u:*`)
      expect(await redis.zcard(index)).toBe(1)
      expect(await redis.pttl(index)).toBeGreaterThan(86_400_000)
      // Many that are over as far as the index knows: each login takes some away, and none that lives.
      const [kept = ''] = await redis.zrange(index, '0', '-1')
      await redis.zadd(index, ...Array.from({ length: 20 }, (_, i) => [i + 1, `dead${i}`]).flat(), '5', kept)
      for (let i = 0; i < 3; i++) await visitor(lasting.url, '/login/ada')
      await until(async () => (await redis.zcard(index)) === 4, { what: 'the dead to be forgotten' })
      expect(await redis.zscore(index, kept)).not.toBe('5')
    })

    test('a session in use keeps its place in the index beyond its first end', async () => {
      const namespace = where.namespace()
      const { url, sessions } = await site(namespace, { touchEvery: 0 })
      const jar = await visitor(url, '/login/ada')
      const [index = ''] = await keysIn(looker, `${namespace}:u:*`)
      await redis.pexpire(index, 60_000)
      await get(url, { jar })
      await until(async () => (await redis.pttl(index)) > 80_000_000, { what: 'the index to be renewed' })
      expect(await sessions.forUser('ada').count()).toBe(1)
    })

    test('user ids are any text, told apart, and not readable in Redis', async () => {
      const namespace = where.namespace()
      const { url, sessions } = await site(namespace)
      for (const user of ['__proto__', '{tag}', 'a*']) await visitor(url, `/login/${user}`)
      for (const user of ['__proto__', '{tag}', 'a*']) expect(await sessions.forUser(user).count()).toBe(1)
      expect(await sessions.forUser('a').count()).toBe(0)
      expect((await keysIn(looker, `${namespace}:u:*`)).join()).not.toContain('tag')
      expect(() => sessions.forUser('')).toThrow(/user id must be a non-empty string/)
      expect((await get(`${url}/login/`)).status).toBe(500)
    })

    test("with format 'blob' there are no users, and it says so", async () => {
      const { sessions, url } = await site(where.namespace(), {
        format: 'blob',
        prefix: `${where.namespace()}:`,
      })
      expect(() => sessions.forUser('ada')).toThrow(/need format 'hash'/)
      expect((await get(`${url}/login/ada`)).body).toContain("need format 'hash'")
    })

    test('sockets opened with a session are closed on every worker when it ends, and only those', async () => {
      const namespace = where.namespace()
      const workers = [await site(namespace), await site(namespace)]
      const servers = await Promise.all(workers.map(socketServer))
      const [ada, eve] = [
        await visitor(workers[0]?.url ?? '', '/put/a', '/login/ada'),
        await visitor(workers[1]?.url ?? '', '/login/eve'),
      ]
      const adas = servers.map(({ port }) => upgrade(port, ada))
      const eves = servers.map(({ port }) => upgrade(port, eve))
      const stranger = upgrade(servers[0]?.port ?? 0, new CookieJar())
      for (const each of adas) await until(() => each.text().includes('User: ada'), { what: 'the upgrade' })
      for (const each of eves) await until(() => each.text().includes('User: eve'), { what: 'the upgrade' })
      expect(adas[0]?.text()).toContain('Data: {"a":1}')
      await until(() => stranger.text().includes('401'), { what: 'a refusal' })
      const heard: Revoked[] = []
      workers[1]?.sessions.onRevoked((revoked) => heard.push(revoked))
      await get(`${workers[0]?.url}/logout`, { jar: ada })
      for (const each of adas) {
        await until(() => each.ended(), { what: 'the socket to be closed' })
        expect(each.text()).toMatch(/destroyed$/)
      }
      await until(() => heard.length > 0, { what: 'word of it' })
      expect(heard).toEqual([
        { id: expect.stringMatching(/^[\w-]{43}$/), userId: 'ada', reason: 'destroyed' },
      ])
      await workers[1]?.sessions.forUser('eve').destroyAll()
      for (const each of eves) await until(() => each.ended(), { what: 'the socket to be closed' })
      // The servers hear of the end of a connection after the clients.
      await until(() => servers.every(({ open }) => open() === 0), { what: 'the servers to have let go' })
    })

    test('a login as somebody else closes what was open for the old id: rights are not passed on', async () => {
      const namespace = where.namespace()
      const workers = [await site(namespace), await site(namespace)]
      const { port } = await socketServer(workers[0] as Site)
      const jar = await visitor(workers[0]?.url ?? '', '/login/ada')
      const socket = upgrade(port, jar)
      await until(() => socket.text().includes('User: ada'), { what: 'the upgrade' })
      const heard: Revoked[] = []
      workers[0]?.sessions.onRevoked((revoked) => heard.push(revoked))
      await get(`${workers[1]?.url}/login/eve`, { jar })
      await until(() => socket.ended(), { what: 'the socket to be closed' })
      expect(socket.text()).toMatch(/rotated$/)
      await until(() => heard.length > 0, { what: 'word of it' })
      expect(heard).toEqual([{ id: expect.any(String), userId: 'ada', reason: 'rotated' }])
    })

    test('a socket follows a rotation, and is closed when its session expires or is deleted by somebody else', async () => {
      const namespace = where.namespace()
      const one = await site(namespace, { touchEvery: 0 })
      const { port } = await socketServer(one)
      const jar = await visitor(one.url, '/login/ada')
      const socket = upgrade(port, jar)
      await until(() => socket.text().includes('User: ada'), { what: 'the upgrade' })
      await get(`${one.url}/rotate/0`, { jar })
      const again = upgrade(port, jar)
      await until(() => again.text().includes('User: ada'), { what: 'the second upgrade' })
      expect(socket.ended()).toBe(false)
      await deleteIn(looker, `${namespace}:s:*`)
      for (const each of [socket, again]) {
        await until(() => each.ended(), { what: 'the socket to be closed' })
        expect(each.text()).toMatch(/expired$/)
      }
    })
  })
}
