import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { freePort, isAlive, until } from '../helpers/fork.ts'
import { request, steadyLoad } from '../helpers/http.ts'
import { isLong } from '../helpers/long.ts'
import { sendSignal } from '../helpers/processes.ts'
import { startCluster, type TestCluster, workersOf } from './start-cluster.ts'

const quick = { drain: { linger: '500ms' }, hangTimeout: '2s' }

async function hang(cluster: TestCluster): Promise<number> {
  request(`${cluster.url}/hang`, { timeout: 60_000 }).catch(() => {}) // never answered
  const [, pid] = await cluster.primary.waitFor(/hanging (\d+)/)
  return Number(pid)
}

const HANG_TIMEOUT_MS = 2_000
/** Longer than silence may be. */
const STOPPED_MS = HANG_TIMEOUT_MS + 700

test('whatever comes between a spare and its use, no worker is left over', async () => {
  const cluster = await startCluster({
    options: { ...quick, drain: { linger: '100ms', reloadTimeout: '500ms', stopTimeout: '500ms' } },
  })
  const hangWithSpare = async (): Promise<void> => {
    const started = cluster.events('worker-started').length
    cluster.get('/hang', { timeout: 30_000 }).catch(() => {})
    await until(() => cluster.events('worker-started').length > started, { what: 'the spare' })
  }
  const before = await cluster.pids()
  await hangWithSpare()
  await cluster.tell('reload')
  const after = await cluster.pids()
  for (const pid of after) expect(before).not.toContain(pid)
  await until(() => workersOf(cluster.primary.pid).length === 2, { what: 'the workers alone' })

  await hangWithSpare()
  await cluster.tell('scale', 1)
  await until(() => workersOf(cluster.primary.pid).length === 1, { what: 'one worker' })
  await until(async () => (await cluster.who()).index === '0', { what: 'it to serve' })

  await hangWithSpare()
  await cluster.tell('stop')
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
})

test('a worker that hangs while it drains is killed at the deadline of its drain, and the reload goes on', async () => {
  const cluster = await startCluster({ options: { drain: { linger: '200ms', reloadTimeout: '1500ms' } } })
  const before = await cluster.pids()
  await hang(cluster)
  await cluster.tell('reload')
  for (const pid of await cluster.pids()) expect(before).not.toContain(pid)
  const forced = cluster.events('worker-exited').filter(({ exit }) => exit?.forced)
  expect(forced).toHaveLength(1)
  expect(cluster.primary.stderr()).toMatch(/did not stop in time and was killed$/m)
  await cluster.who()
})

test('a primary that was stopped kills nobody for its silence', async () => {
  const cluster = await startCluster({ options: quick })
  const before = await cluster.pids()
  if (isLong) {
    cluster.primary.kill('SIGSTOP')
    await sleep(STOPPED_MS)
    cluster.primary.kill('SIGCONT')
    await sleep(1_500)
  }
  cluster.primary.killGroup('SIGSTOP') // as a suspended machine, or Ctrl-Z
  await sleep(STOPPED_MS)
  cluster.primary.killGroup('SIGCONT')
  await sleep(500) // whoever is wrongly killed is so in the next turn of its loop
  expect(await cluster.pids()).toEqual(before)
  expect(cluster.events('worker-exited')).toEqual([])
  await cluster.who()
})

/** Its figures change with each beat. The first one that is new to us may have been under way before. */
async function whenToldMore(cluster: TestCluster, index: number): Promise<void> {
  const figures = async (): Promise<string> => {
    const { workers } = await cluster.tell<{ workers: { cpu?: number; utilization?: number }[] }>('status')
    return `${workers[index]?.cpu} ${workers[index]?.utilization}`
  }
  const before = await figures()
  await until(async () => (await figures()) !== before, { what: `the next beat of worker ${index}` })
}

test('a worker that its operator has stopped, or debugs, is left alone', async () => {
  // Debuggers of others may have Node's own port.
  const env = { NODE_OPTIONS: `--inspect-port=${await freePort()}` }
  const cluster = await startCluster({ options: quick, env })
  const [stopped = 0, debugged = 0] = await cluster.pids()
  sendSignal(stopped, 'SIGSTOP')
  sendSignal(debugged, 'SIGUSR1') // opens its inspector
  await cluster.primary.waitFor(/Debugger listening/)
  for (let beats = 0; beats < 2; beats++) await whenToldMore(cluster, 1) // that it is debugged
  for (let i = 0; i < 3; i++) cluster.get('/hang', { timeout: 30_000 }).catch(() => {}) // as at a breakpoint
  await cluster.primary.waitFor(/hanging/)
  await sleep(STOPPED_MS)
  expect([isAlive(stopped), isAlive(debugged)]).toEqual([true, true])
  sendSignal(stopped, 'SIGCONT')
  await sleep(500)
  expect(cluster.events('worker-exited')).toEqual([])
})

const limits: [string, object, RegExp][] = [
  ['requests', { maxRequests: 20 }, /^it has served \d+ requests \(recycle\.maxRequests\)$/],
  ['age', { maxAge: '2s' }, /^it is \d+ s old \(recycle\.maxAge\)$/],
  ['memory', { maxMemory: '190mb' }, /^it uses \d+ MB \(recycle\.maxMemory\)$/],
]

test.each(isLong ? limits : limits.slice(0, 1))(
  'past its limit of %s a worker is replaced, one at a time, without a failed request',
  async (what, recycle, reason) => {
    const cluster = await startCluster({ options: { drain: quick.drain, recycle } })
    const before = await cluster.pids()
    const load = [true, false].map((keepAlive) =>
      steadyLoad({ url: `${cluster.url}/slow?ms=20`, clients: 2, keepAlive, timeout: 10_000 }),
    )
    await until(
      async () => {
        if (what === 'memory') await cluster.get('/allocate?mb=120') // in whichever worker it comes to
        return (await cluster.pids()).every((pid) => pid !== undefined && !before.includes(pid))
      },
      { what: 'both to be replaced', deadline: 60_000, every: 300 },
    )
    const results = await Promise.all(load.map((each) => each.stop()))
    expect(results.map(({ reasons }) => reasons)).toEqual([{}, {}])
    const recycled = cluster.events('worker-recycled')
    expect(recycled.length).toBeGreaterThanOrEqual(2)
    for (const { exit } of recycled) expect(exit).toMatch(reason)
    for (const { exit } of cluster.events('worker-exited'))
      expect(exit).toEqual({ code: 0, signal: null, forced: false })
    // One at a time: each one that is recycled waits for the exit of the one before.
    const order = (cluster.primary.messages as { event?: string }[])
      .map(({ event }) => event)
      .filter((event) => event === 'worker-recycled' || event === 'worker-exited')
    for (let i = 1; i < order.length; i++) expect(order[i]).not.toBe(order[i - 1])
  },
)

test('a worker out of memory is replaced', async () => {
  // A loop that fills the heap is a hang too: on a slow machine that would be noticed first.
  const cluster = await startCluster({
    options: { ...quick, hangTimeout: false },
    env: { NODE_OPTIONS: '--max-old-space-size=64' },
  })
  await cluster.get('/exhaust', { timeout: 30_000 }).catch(() => {}) // it dies of it
  await until(() => cluster.events('worker-exited').length === 1, { what: 'it to die', deadline: 30_000 })
  expect(cluster.events('worker-exited')[0]?.exit).toMatchObject({ signal: 'SIGABRT' })
  await until(() => cluster.events('worker-ready').length === 1, { what: 'the replacement' })
  await cluster.who()
})
