import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type NodeProcess, until } from '../helpers/fork.ts'
import { get, keepAliveAgent, request, steadyLoad } from '../helpers/http.ts'
import { long } from '../helpers/long.ts'
import { isFree } from '../helpers/ports.ts'
import { fileRng } from '../helpers/random.ts'
import {
  fixture,
  spawnCluster,
  startCluster,
  type TestCluster,
  whenInFlight,
  workersOf,
} from './start-cluster.ts'

const quick = { drain: { linger: '200ms' } }

/** Four slow requests, on fresh and kept-alive connections, all in the hands of the app. */
async function slowRequests(cluster: TestCluster, ms: number): Promise<Promise<number>[]> {
  const path = `/slow?ms=${ms}`
  const agent = keepAliveAgent()
  await get(`${cluster.url}/`, { agent })
  const replies = [undefined, undefined, agent, agent].map(
    async (each) => (await get(`${cluster.url}${path}`, each && { agent: each })).status,
  )
  for (const reply of replies) reply.catch(() => {}) // some tests cut them
  await whenInFlight(cluster, path, 4)
  return replies
}

async function leftNothing({ primary, port }: TestCluster): Promise<void> {
  expect(primary.tree()).toEqual([])
  expect(await isFree(port)).toBe(true)
}

describe('requests in flight finish', () => {
  test.each<[string, (primary: NodeProcess) => void]>([
    ['SIGTERM', (primary) => primary.kill('SIGTERM')],
    ['SIGTERM to every process of a service', (primary) => primary.killGroup('SIGTERM')],
    ['Ctrl-C in a terminal', (primary) => primary.killGroup('SIGINT')],
    [
      'Ctrl-C that npm passes on once more',
      (primary) => {
        primary.killGroup('SIGINT')
        setTimeout(() => primary.kill('SIGINT'), 20) // soon: 300 ms later, on a machine that pauses, it would be a second one
      },
    ],
  ])('%s', async (_name, stop) => {
    const cluster = await startCluster({ env: { LOG: '1' }, options: quick })
    const replies = await slowRequests(cluster, 800)
    stop(cluster.primary)
    expect(await Promise.all(replies)).toEqual([200, 200, 200, 200])
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    await leftNothing(cluster)
    expect(cluster.primary.stderr()).not.toContain('as-one:')
  })

  test('stop() of the handle, after which the process ends by itself', async () => {
    const cluster = await startCluster({ env: { LOG: '1' }, options: quick })
    const replies = await slowRequests(cluster, 800)
    await cluster.tell('stop')
    expect(await Promise.all(replies)).toEqual([200, 200, 200, 200])
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    await leftNothing(cluster)
  })
})

test.each([
  ['SIGTERM', 143],
  ['SIGINT', 130],
] as const)('a second %s ends it at once, with exit code %i', async (signal, code) => {
  const cluster = await startCluster({ env: { LOG: '1' } })
  const replies = await slowRequests(cluster, 30_000)
  cluster.primary.kill(signal)
  await until(() => isFree(cluster.port), { what: 'the first one to have been heard' })
  await sleep(400) // further apart than one Ctrl-C that arrives twice
  const startedAt = performance.now()
  cluster.primary.kill(signal)
  expect(await cluster.primary.exit).toEqual({ code, signal: null })
  expect(performance.now() - startedAt).toBeLessThan(4_000) // by itself it would take the 8 s of stopTimeout
  expect((await Promise.allSettled(replies)).map(({ status }) => status)).toEqual(Array(4).fill('rejected'))
  await leftNothing(cluster)
})

test('what does not finish within stopTimeout is cut, and the stop is still a clean one', async () => {
  const cluster = await startCluster({
    env: { LOG: '1' },
    options: { drain: { linger: '100ms', stopTimeout: '1s' } },
  })
  const replies = await slowRequests(cluster, 30_000)
  const startedAt = performance.now()
  cluster.primary.kill('SIGTERM')
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
  expect(performance.now() - startedAt).toBeLessThan(4_000)
  expect((await Promise.allSettled(replies)).map(({ status }) => status)).toEqual(Array(4).fill('rejected'))
  await leftNothing(cluster)
})

test('a worker that hangs is killed after stopTimeout, and that is told', async () => {
  const cluster = await startCluster({ options: { drain: { linger: '100ms', stopTimeout: '500ms' } } })
  const hung = cluster.get('/hang').catch(() => {})
  await cluster.primary.waitFor(/hanging/)
  cluster.primary.kill('SIGTERM')
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
  expect(cluster.primary.stderr()).toMatch(
    /^as-one: worker \d \(pid \d+\) did not stop in time and was killed$/m,
  )
  await hung
  await leftNothing(cluster)
})

describe('a stop before the start is over', () => {
  test('while workers load', async () => {
    const cluster = await spawnCluster({ script: fixture('mistake.mjs'), env: { CASE: 'never listens' } })
    await until(() => workersOf(cluster.primary.pid).length === 2, { what: 'two workers' })
    cluster.primary.kill('SIGTERM')
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    await leftNothing(cluster)
    expect(cluster.primary.stderr()).toBe('')
  })

  test('while some serve already: what those have begun is finished', async () => {
    const cluster = await spawnCluster({
      script: fixture('half-started.mjs'),
      env: { LOG: '1' },
    })
    await until(() => cluster.who(), { what: 'the first worker to serve' })
    const slow = cluster.get('/slow?ms=800')
    await whenInFlight(cluster, '/slow?ms=800', 1)
    cluster.primary.kill('SIGTERM')
    expect((await slow).status).toBe(200)
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    await leftNothing(cluster)
  })

  test('at any moment of the start of a managed Redis', async () => {
    const rng = fileRng()
    const moments = Array.from({ length: long(4, 60) }, () => rng.int(100, 1_500))
    const lanes = Array.from({ length: 3 }, async () => {
      for (let ms = moments.pop(); ms !== undefined; ms = moments.pop()) {
        const cluster = await spawnCluster({ redisUrl: null })
        await sleep(ms)
        cluster.primary.kill('SIGTERM')
        const { code, signal } = await cluster.primary.exit
        // Before runCluster was even called there is nobody to catch it.
        expect(code === 0 || signal === 'SIGTERM', `after ${ms} ms: ${code} ${signal}`).toBe(true)
        await until(() => cluster.primary.tree().length === 0, { what: `nobody to be left after ${ms} ms` })
        expect(cluster.primary.stderr()).toBe('')
      }
    })
    await Promise.all(lanes)
  }, 300_000)
})

/**
 * A client that connects in the microseconds between the primary's last look and its close is reset by the kernel; in a
 * closed loop of 12 clients on loopback 2 in 75 stops. A primary that has no CPU between the two loses those who come
 * meanwhile, which in a few stops is more than the rate. Without closing first: 273 in 25 stops, almost all 12 each time.
 */
test('a connection made before a stop is answered: a load balancer may not send a POST twice', async () => {
  const rounds = long(2, 25)
  const total = { ok: 0, lost: 0 }
  for (let round = 0; round < rounds; round++) {
    const cluster = await startCluster({ options: { workers: 2 } })
    await using load = steadyLoad({
      url: cluster.url,
      clients: 12,
      send: () => request(`${cluster.url}/`, { method: 'POST', body: 'x'.repeat(2_000), timeout: 10_000 }),
    })
    await until(() => load.result.ok > 200, { what: 'a load that runs' })
    cluster.primary.kill('SIGTERM')
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    const { ok, reasons } = await load.stop()
    // Refused is safe: nothing has been sent, and whoever is in front asks the next machine.
    const { ECONNREFUSED: _refused, ECONNRESET: reset = 0, ...others } = reasons
    expect(others).toEqual({})
    total.ok += ok
    total.lost += reset
  }
  console.info(`[stop] ${rounds} stops, fresh connections: ${total.ok} answered, ${total.lost} reset`)
  expect(total.lost).toBeLessThanOrEqual(Math.max(5, rounds / 2))
})
