import { RedisStore } from 'connect-redis'
import expressSession from 'express-session'
import { expect, test } from 'vitest'
import { createSession, type SessionMiddleware } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { type AnySession, type Handler, listener, serve, worker } from './app.ts'

/** The same two races for us and for express-session with connect-redis, each on two workers of its own. */
interface Contender {
  middleware(): SessionMiddleware
  storedKeys(): Promise<string[]>
}

function ours(): Contender {
  const namespace = testNamespace()
  const redis = sharedRedisClient()
  return {
    middleware: () =>
      createSession(worker(sharedRedis().url, namespace), { secret: 'keyboard cat', name: 'sid' }),
    storedKeys: () => redis.keys(`${namespace}:*`),
  }
}

function expressSessionWithConnectRedis(): Contender {
  const prefix = `${testNamespace()}:`
  const redis = sharedRedisClient()
  return {
    middleware: () =>
      expressSession({
        secret: 'keyboard cat',
        name: 'sid',
        resave: false,
        saveUninitialized: false,
        store: new RedisStore({ client: sharedRedisClient(), prefix }),
      }) as unknown as SessionMiddleware,
    storedKeys: () => redis.keys(`${prefix}*`),
  }
}

const requests = 50

/** All requests have loaded the session before the first one changes it. */
function together(change: Handler): { handler: Handler; go(): void; waiting(): number } {
  let waiting = 0
  let go: () => void = () => {}
  const gate = new Promise<void>((resolve) => {
    go = resolve
  })
  const handler: Handler = async (req, res) => {
    if (req.url?.startsWith('/race')) {
      waiting++
      await gate
    }
    await change(req, res)
  }
  return { handler, go: () => go(), waiting: () => waiting }
}

async function start(
  { middleware }: Contender,
  handler: Handler,
): Promise<{ urls: string[]; jar: CookieJar }> {
  const urls = await Promise.all([1, 2].map(() => serve(listener(middleware(), handler))))
  const jar = new CookieJar()
  // A client that is not connected yet refuses commands (ours waits for it, connect-redis' queues them).
  await get(`${urls[1]}/first`)
  await get(`${urls[0]}/first`, { jar })
  return { urls, jar }
}

async function survivingFields(contender: Contender): Promise<number> {
  const race = together((req, res) => {
    if (req.url !== '/read') req.session[String(req.url)] = 1
    res.end(JSON.stringify(req.session))
  })
  const { urls, jar } = await start(contender, race.handler)
  const headers = { cookie: jar.header() ?? '' }
  const replies = Array.from({ length: requests }, (_, index) =>
    get(`${urls[index % 2]}/race${index}`, { headers }),
  )
  await until(() => race.waiting() === requests, { what: 'all requests to have loaded the session' })
  race.go()
  await Promise.all(replies)
  const session = (await get(`${urls[0]}/read`, { headers })).json<AnySession>()
  return Object.keys(session).filter((key) => key.startsWith('/race')).length
}

async function keysAfterLogout(contender: Contender): Promise<number> {
  const race = together(async (req, res) => {
    if (req.url === '/logout') await new Promise((resolve) => req.session.destroy(resolve))
    else if (req.url?.endsWith('change')) req.session[req.url] = 1
    else if (req.url === '/first') req.session.user = 'bob'
    res.end()
  })
  const { urls, jar } = await start(contender, race.handler)
  const before = (await contender.storedKeys()).length
  const headers = { cookie: jar.header() ?? '' }
  const replies = Array.from({ length: requests }, (_, index) =>
    get(`${urls[index % 2]}/race${index}${index % 3 === 0 ? 'read' : 'change'}`, { headers }),
  )
  await until(() => race.waiting() === requests, { what: 'all requests to have loaded the session' })
  await get(`${urls[1]}/logout`, { headers })
  race.go()
  expect((await Promise.all(replies)).map(({ status }) => status)).toEqual(Array(requests).fill(200))
  return (await contender.storedKeys()).length - before
}

test('50 parallel requests over two workers, each changing another field: 50 survive, elsewhere most are lost', async () => {
  const theirs = await survivingFields(expressSessionWithConnectRedis())
  const own = await survivingFields(ours())
  console.log(`fields of ${requests} that survived: ours ${own}, express-session + connect-redis ${theirs}`)
  expect(own).toBe(requests)
  expect(theirs).toBeLessThan(requests / 2)
})

test('logout against 50 requests in flight: the session stays gone, elsewhere it comes back', async () => {
  const theirs = await keysAfterLogout(expressSessionWithConnectRedis())
  const own = await keysAfterLogout(ours())
  console.log(
    `sessions more than before minus the one logged out: ours ${own}, express-session + connect-redis ${theirs}`,
  )
  expect(own).toBe(-1)
  expect(theirs).toBe(0)
})
