import { expect, test } from 'vitest'
import { runNode, until } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { fixture, startCluster, whenInFlight } from './start-cluster.ts'

const own = { script: fixture('own-signals.mjs'), env: { LOG: '1' } }

test.each(['SIGTERM', 'SIGINT'] as const)(
  "an app's own handlers run after the drain, at %s to the whole group",
  async (signal) => {
    const cluster = await startCluster(own)
    const replies = [cluster.get('/slow?ms=800'), cluster.get('/slow?ms=800')]
    await whenInFlight(cluster, '/slow?ms=800', 2)
    cluster.primary.killGroup(signal)
    expect((await Promise.all(replies)).map(({ status }) => status)).toEqual([200, 200])
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    // The handler closes at once and exits: before the drain it would have cut both.
    expect(cluster.primary.lines.filter((line) => line.startsWith('own SIGTERM'))).toEqual(
      Array(2).fill('own SIGTERM, in flight 0'),
    )
    expect(cluster.primary.lines.filter((line) => line === 'own handler is done')).toHaveLength(2)
  },
)

test('signals are held back whatever an app does with its listeners, and other events pass by', async () => {
  const script = runNode(fixture('held-signals.mjs'))
  expect(await script.exit).toEqual({ code: 0, signal: null })
  expect(script.lines).toEqual([
    "emit is Node's: true",
    'held: SIGTERM',
    'held: SIGINT',
    'held: SIGTERM',
    'held: SIGINT',
    // after removeAllListeners
    'held: SIGTERM',
    'held: SIGINT',
    // with a new listener
    'held: SIGTERM',
    'other: 1,2',
    'app: SIGTERM 15',
    'delivered: true',
  ])
})

test('the health port: ready while it serves, not from the first moment of a stop on, though drain.delay accepts', async () => {
  const token = 'sixteen-characters-or-more'
  const cluster = await startCluster({
    options: { port: 0, health: { port: 0, token }, drain: { delay: '3s', linger: '200ms' } },
  })
  const status = await cluster.tell<{ healthPort: number; address: { port: number } }>('status')
  const health = `http://127.0.0.1:${status.healthPort}`
  const app = `http://127.0.0.1:${status.address.port}/` // port 0: one for all workers, and the primary knows
  expect((await get(app)).status).toBe(200)
  expect((await get(`${health}/readyz`)).status).toBe(200)
  expect((await get(`${health}/status`)).json()).toMatchObject({
    desired: 2,
    workers: [{ state: 'ready' }, { state: 'ready' }],
  })
  cluster.primary.kill('SIGTERM')
  await until(async () => (await get(`${health}/readyz`)).status === 503, {
    what: 'not to be ready',
    every: 5,
  })
  expect((await get(app)).status).toBe(200)
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
})

test('waitReady: a worker counts when it says so', async () => {
  const cluster = await startCluster({
    ...own,
    options: { waitReady: true, workers: 1 },
    env: { READY_AFTER: '700' },
  })
  expect(cluster.primary.lines.some((line) => line.startsWith('ready at'))).toBe(true)
  await cluster.who()
})
