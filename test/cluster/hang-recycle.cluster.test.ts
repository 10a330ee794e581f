import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { isAlive, until } from '../helpers/fork.ts'
import { request, steadyLoad } from '../helpers/http.ts'
import { isLong, long } from '../helpers/long.ts'
import { sendSignal } from '../helpers/processes.ts'
import { startCluster, type TestCluster } from './start-cluster.ts'

const quick = { drain: { linger: '500ms' }, hangTimeout: '2s' }

async function hang(cluster: TestCluster): Promise<number> {
  request(`${cluster.url}/hang`, { timeout: 60_000 }).catch(() => {}) // never answered
  const [, pid] = await cluster.primary.waitFor(/hanging (\d+)/)
  return Number(pid)
}

test('a worker whose loop is blocked is killed and replaced while the others serve', async () => {
  const cluster = await startCluster({ options: quick })
  await using load = steadyLoad({ url: cluster.url, clients: 2, timeout: 20_000 })
  const killed: number[] = []
  const replaced: number[] = []
  for (let round = 0; round < long(1, 10); round++) {
    const before = cluster.events('worker-ready').length
    const words = cluster.primary.lines.length
    request(`${cluster.url}/hang`, { timeout: 60_000 }).catch(() => {}) // never answered
    const hung = await cluster.primary.waitFor(() => {
      const [, pid] = /hanging (\d+)/.exec(cluster.primary.lines.slice(words).join()) ?? []
      return Number(pid)
    })
    const since = performance.now()
    await until(() => cluster.events('worker-exited').some(({ pid }) => pid === hung), {
      what: 'the hung worker to be killed',
      deadline: 20_000,
    })
    killed.push(performance.now() - since)
    await until(() => cluster.events('worker-ready').length > before, { what: 'the replacement' })
    replaced.push(performance.now() - since)
    expect(killed.at(-1)).toBeGreaterThan(900) // it may have told up to a second before it hung
  }
  console.info(`[hang] hangTimeout 2 s: killed after ${spread(killed)}, replaced after ${spread(replaced)}`)
  const { ok, reasons } = await load.stop()
  // A connection that it had taken in the moment before is lost with it; those that wait for it go to the others.
  const { ECONNRESET: taken = 0, ...others } = reasons
  expect(others).toEqual({})
  expect(taken).toBeLessThanOrEqual(killed.length)
  expect(ok).toBeGreaterThan(10)
  expect(cluster.primary.stderr()).toMatch(
    /was ended by SIGKILL, next attempt in \d+ ms: its event loop has been blocked for 2000 ms \(hangTimeout\)/,
  )
})

function spread(all: readonly number[]): string {
  const sorted = all.map(Math.round).sort((a, b) => a - b)
  return `${sorted[sorted.length >> 1]} ms (median of ${sorted.length}, worst ${sorted.at(-1)})`
}

test('a worker that hangs while it drains is killed at the deadline of its drain, and the reload goes on', async () => {
  const cluster = await startCluster({ options: { drain: { linger: '500ms', reloadTimeout: '1500ms' } } })
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
    await sleep(3_500)
    cluster.primary.kill('SIGCONT')
    await sleep(1_500)
  }
  cluster.primary.killGroup('SIGSTOP') // as a suspended machine, or Ctrl-Z
  await sleep(3_500)
  cluster.primary.killGroup('SIGCONT')
  await sleep(1_500)
  expect(await cluster.pids()).toEqual(before)
  expect(cluster.events('worker-exited')).toEqual([])
  await cluster.who()
})

test('a worker that its operator has stopped, or debugs, is left alone', async () => {
  const cluster = await startCluster({ options: quick })
  const [stopped = 0, debugged = 0] = await cluster.pids()
  sendSignal(stopped, 'SIGSTOP')
  sendSignal(debugged, 'SIGUSR1') // opens its inspector
  await cluster.primary.waitFor(/Debugger listening/)
  await sleep(1_500) // it tells so with its next beat
  for (let i = 0; i < 3; i++) cluster.get('/hang', { timeout: 30_000 }).catch(() => {}) // as at a breakpoint
  await cluster.primary.waitFor(/hanging/)
  await sleep(4_000)
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
  const cluster = await startCluster({ options: quick, env: { NODE_OPTIONS: '--max-old-space-size=64' } })
  await cluster.get('/exhaust', { timeout: 30_000 }).catch(() => {}) // it dies of it
  await until(() => cluster.events('worker-exited').length === 1, { what: 'it to die', deadline: 30_000 })
  expect(cluster.events('worker-exited')[0]?.exit).toMatchObject({ signal: 'SIGABRT' })
  await until(() => cluster.events('worker-ready').length === 1, { what: 'the replacement' })
  await cluster.who()
})
