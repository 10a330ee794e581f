import { join } from 'node:path'
import { expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { until } from '../helpers/fork.ts'
import { request, steadyLoad } from '../helpers/http.ts'
import { long } from '../helpers/long.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startCluster, type TestCluster, workersOf, writeApp } from './start-cluster.ts'

// With nobody beside it: what it measures is how soon a worker is replaced, and its spare costs a processor too.

const HANG_TIMEOUT_MS = 2_000
const BOOT_MS = 1_500

/** Whose app takes its time to be ready, as one that connects to a database does. */
async function startSlowly(hangTimeout: number): Promise<TestCluster> {
  const file = join(tempDir(), 'app.mjs')
  writeApp(file, 'slow', `await new Promise((done) => setTimeout(done, ${BOOT_MS} - performance.now()))`)
  return startCluster({ options: { drain: { linger: '500ms' }, hangTimeout }, app: file })
}

function spread(all: readonly number[]): string {
  const sorted = all.map(Math.round).sort((a, b) => a - b)
  return `${sorted[sorted.length >> 1]} ms (median of ${sorted.length}, worst ${sorted.at(-1)})`
}

test('a worker whose loop is blocked is replaced within hangTimeout + 1 s while the others serve', async () => {
  const cluster = await startSlowly(HANG_TIMEOUT_MS)
  const clock = runningClock()
  await using load = steadyLoad({ url: cluster.url, clients: 2, timeout: 20_000 })
  const killed: number[] = []
  const replaced: number[] = []
  for (let round = 0; round < long(1, 10); round++) {
    const before = cluster.events('worker-ready').length
    const words = cluster.primary.lines.length
    const askedAt = performance.now()
    request(`${cluster.url}/hang`, { timeout: 60_000 }).catch(() => {}) // never answered
    const hung = await cluster.primary.waitFor(() => {
      const [, pid] = /hanging (\d+)/.exec(cluster.primary.lines.slice(words).join()) ?? []
      return Number(pid)
    })
    const since = clock()
    await until(() => cluster.events('worker-exited').some(({ pid }) => pid === hung), {
      what: 'the hung worker to be killed',
      deadline: 20_000,
    })
    killed.push(performance.now() - askedAt) // how late we heard that it hangs makes this no shorter
    await until(() => cluster.events('worker-ready').length > before, { what: 'the replacement' })
    replaced.push(clock() - since)
  }
  console.info(
    `[hang] hangTimeout ${HANG_TIMEOUT_MS} ms, boot ${BOOT_MS} ms: killed after ${spread(killed)}, replaced after ${spread(replaced)}`,
  )
  const { ok, reasons } = await load.stop()
  // A connection that it had taken in the moment before is lost with it; those that wait for it go to the others.
  const { ECONNRESET: taken = 0, ...others } = reasons
  expect(others).toEqual({})
  expect(taken).toBeLessThanOrEqual(killed.length)
  expect(ok).toBeGreaterThan(10)
  expect(cluster.primary.stderr()).toMatch(
    /was ended by SIGKILL, its replacement has been started: its event loop has been blocked for 2000 ms \(hangTimeout\)/,
  )
  for (const each of killed) expect(each).toBeGreaterThan(0.8 * HANG_TIMEOUT_MS)
  for (const each of replaced) expect(each).toBeLessThan(HANG_TIMEOUT_MS + 1_000)
  expect(workersOf(cluster.primary.pid)).toHaveLength(2)
})

test('a worker that was blocked for most of hangTimeout keeps its pid and its requests', async () => {
  const hangTimeout = 1.5 * HANG_TIMEOUT_MS // leaves it time to come back on a machine that pauses
  const cluster = await startSlowly(hangTimeout)
  const before = await cluster.pids()
  const started = cluster.events('worker-started').length
  const block = (): Promise<{ pid: number }> => cluster.ask(`/block?ms=${0.7 * hangTimeout}`)
  const { pid } = await block()
  const spares = cluster.events('worker-started').slice(started)
  expect(spares).toHaveLength(1) // in case it had not come back
  await until(() => cluster.events('worker-exited').length === 1, { what: 'the spare to go' })
  // It had not begun to serve, and is not tried again so soon: an app that blocks often must not fork often.
  while ((await block()).pid !== pid);
  await cluster.who()
  expect(cluster.events('worker-started').length - started).toBeLessThanOrEqual(2) // of the other slot too
  await until(() => workersOf(cluster.primary.pid).length === 2, { what: 'only the workers to be left' })
  expect(await cluster.pids()).toEqual(before)
  for (const { pid: gone } of cluster.events('worker-exited')) expect(before).not.toContain(gone)
})
