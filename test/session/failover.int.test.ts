import { expect, test } from 'vitest'
import { createSession } from '../../src/session/index.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { startRedisCluster, startSentinel, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { until } from '../helpers/until.ts'
import { type Handler, keysIn, listener, serve, worker } from './app.ts'

const timeout = 500
/** For a busy machine. */
const margin = 400
const clock = runningClock()

const count: Handler = ({ session }, res) => {
  session.n = Number(session.n ?? 0) + 1
  res.end(String(session.n))
}

test('Cluster, one master frozen: its sessions are refused in time, then at once; those of the others go on', async () => {
  // It stays the owner of its slots: nobody may take the cluster for broken meanwhile.
  const cluster = await startRedisCluster({ nodeTimeout: 60_000 })
  const namespace = testNamespace()
  const ctx = worker(cluster.url, namespace)
  await ctx.redis.ready()
  const waits: number[] = []
  const sessions = createSession(ctx, { secret: 'keyboard cat' })
  const timed = Object.assign(
    ((req, res, next) => {
      const began = clock()
      sessions(req, res, (error) => {
        if (error) waits.push(clock() - began)
        next(error)
      })
    }) as typeof sessions,
    { ...sessions },
  )
  const url = await serve(listener(timed, count))
  const visitors = new Map<number, CookieJar>()
  for (let i = 0; i < 60 && visitors.size < 3; i++) {
    const before = new Set(await keysIn(ctx, `${namespace}:s:*`))
    const jar = new CookieJar()
    await get(url, { jar })
    const [key = ''] = (await keysIn(ctx, `${namespace}:s:*`)).filter((each) => !before.has(each))
    visitors.set((await cluster.ownerOf(key)).port, jar)
  }
  expect(visitors.size).toBe(3)
  const frozen = cluster.nodes[0]
  const there = { headers: { cookie: visitors.get(frozen?.port ?? 0)?.header() ?? '' } }
  const elsewhere = [...visitors].filter(([port]) => port !== frozen?.port).map(([, jar]) => jar)
  await frozen?.pause()

  const first = await Promise.all([1, 2, 3].map(() => get(url, there)))
  const longest = Math.max(...waits)
  waits.length = 0
  const later = []
  for (let i = 0; i < 50; i++) {
    later.push(await get(url, there))
    for (const jar of elsewhere) expect((await get(url, { jar })).body).toBe(String(i + 2))
  }
  const median = waits.toSorted((a, b) => a - b)[25] as number
  console.log(
    `one of 3 masters frozen: its sessions refused within ${longest.toFixed(0)} ms, then ${median.toFixed(2)} ms (median of 50); those of the others: 100 of 100 answered`,
  )
  for (const { status, headers } of [...first, ...later]) {
    expect([status, headers['set-cookie']]).toEqual([503, undefined])
  }
  expect(longest).toBeLessThan(timeout + margin)
  expect(median).toBeLessThan(1)
  await frozen?.resume()
  // Not 2: a change whose answer came too late has happened all the same.
  await until(async () => Number((await get(url, there)).body) >= 2, { what: 'its sessions to be back' })
})

test('Sentinel, the master killed: answers in time, no cookie, and the sessions go on with the new master', {
  timeout: 150_000,
}, async () => {
  const setup = await startSentinel()
  const ctx = worker(setup.url, testNamespace())
  await ctx.redis.ready()
  const sessions = createSession<{ n: number }>(ctx, { secret: 'keyboard cat' })
  const url = await serve(
    listener(sessions, async (req, res) => {
      if (req.url === '/login') await sessions.login(req, 'ada')
      await count(req, res)
    }),
  )
  const jar = new CookieJar()
  await get(`${url}/login`, { jar })
  const master = await setup.master()
  const [replica] = setup.servers.filter((server) => server !== master)
  const caughtUp = async () => {
    const [key = ''] = await (replica?.client().keys('*:s:*') ?? [])
    return (await replica?.client().hget(key, 'n')) === '1'
  }
  await until(caughtUp, { what: 'the replica to have the session' })
  await master.kill()
  const slowest: number[] = []
  const headers = { cookie: jar.header() ?? '' }
  const answered = async () => {
    const began = clock()
    const each = await get(url, { headers })
    slowest.push(clock() - began)
    expect([each.headers['set-cookie'], [200, 503].includes(each.status)]).toEqual([undefined, true])
    return each
  }
  // Sentinels that a busy machine keeps from their clocks wait for half a minute before they trust them again.
  let isElected = false
  const election = until(async () => (await setup.master()) !== master, {
    what: 'the sentinels to choose',
    deadline: 100_000,
  }).finally(() => {
    isElected = true
  })
  const asked = async () => {
    await answered()
    return isElected
  }
  await until(asked, { what: 'the election', every: 50, deadline: 110_000 })
  await election
  const reply = await until(
    async () => {
      const each = await answered()
      return each.status === 200 && each
    },
    { what: 'the new master', every: 50 },
  )
  console.log(
    `master killed: longest of ${slowest.length} answers ${Math.max(...slowest).toFixed(0)} ms, then the session of the new master`,
  )
  expect(Number(reply.body), 'the same session as before').toBeGreaterThan(1)
  expect(Math.max(...slowest)).toBeLessThan(timeout + margin)
  expect(await sessions.forUser('ada').count()).toBe(1)
})
