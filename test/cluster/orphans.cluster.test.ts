import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { commandOf, isAlive, pidsOf, runNode, until } from '../helpers/fork.ts'
import { steadyLoad } from '../helpers/http.ts'
import { isLong } from '../helpers/long.ts'
import { isFree } from '../helpers/ports.ts'
import { sendSignal } from '../helpers/processes.ts'
import {
  fixture,
  startCluster,
  type TestCluster,
  whenInFlight,
  workersOf,
  writeApp,
} from './start-cluster.ts'

/** What an orphaned worker allows itself, and a little. */
const GONE_WITHIN = 25_000

async function slowRequests(cluster: TestCluster, count: number): Promise<Promise<number>[]> {
  const path = '/slow?ms=1200'
  const replies = Array.from({ length: count }, async () => (await cluster.get(path)).status)
  for (const reply of replies) reply.catch(() => {})
  await whenInFlight(cluster, path, count)
  return replies
}

async function whenNobodyIsLeft(cluster: TestCluster): Promise<void> {
  await until(() => cluster.primary.tree().length === 0, { what: 'the workers to go', deadline: GONE_WITHIN })
}

test('a primary killed under load: what was begun finishes, the port is free, the workers go', async () => {
  const cluster = await startCluster({ env: { LOG: '1' } })
  const load = steadyLoad({ url: `${cluster.url}/slow?ms=20`, clients: 4, keepAlive: true, timeout: 5_000 })
  const replies = await slowRequests(cluster, 6)
  const pids = await cluster.pids()
  cluster.primary.kill('SIGKILL')
  await cluster.primary.exit
  expect(await Promise.all(replies)).toEqual(Array(6).fill(200))
  expect(await isFree(cluster.port)).toBe(true)
  const { reasons } = await load.stop()
  // Those that connected after the kill, and no request that a worker had taken.
  expect(Object.keys(reasons).filter((reason) => reason !== 'ECONNREFUSED')).toEqual([])
  await whenNobodyIsLeft(cluster)
  expect(pids.some((pid) => pid !== undefined && isAlive(pid))).toBe(false)
})

test('even when nobody reads their output any more', async () => {
  const cluster = await startCluster({ script: fixture('pipe-launcher.mjs'), env: { LOG: '1' } })
  const replies = await slowRequests(cluster, 6)
  const { primary } = cluster.primary.messages.find((message) =>
    Object.hasOwn(message as object, 'primary'),
  ) as {
    primary: number
  }
  cluster.primary.kill('SIGKILL') // reader of both pipes
  sendSignal(primary, 'SIGKILL')
  await cluster.primary.exit
  expect(await Promise.all(replies)).toEqual(Array(6).fill(200)) // each says so on both streams before it answers
  await whenNobodyIsLeft(cluster)
  expect(await isFree(cluster.port)).toBe(true)
})

test('a primary whose reader has gone goes on', async () => {
  const cluster = await startCluster({ script: fixture('pipe-launcher.mjs'), env: { LOG: '1' } })
  const { primary } = cluster.primary.messages.find((message) =>
    Object.hasOwn(message as object, 'primary'),
  ) as {
    primary: number
  }
  cluster.primary.kill('SIGKILL')
  await cluster.primary.exit
  for (let i = 0; i < 4; i++) expect((await cluster.get('/')).status).toBe(200) // logged to nobody
  const crashed = [(await cluster.get('/crash')).json<{ pid: number }>().pid] // told to nobody
  await until(() => workersOf(primary).filter((pid) => !crashed.includes(pid)).length === 2, {
    what: 'the replacement',
  })
  expect((await cluster.get('/')).status).toBe(200)
  expect(isAlive(primary)).toBe(true)
  sendSignal(primary, 'SIGTERM')
  await whenNobodyIsLeft(cluster)
})

test('workers that have not come up go at once', async () => {
  const app = join(tempDir(), 'app.mjs')
  writeApp(app, '1')
  const cluster = await startCluster({ script: fixture('pipe-launcher.mjs'), app })
  writeApp(app, '2', 'await new Promise(() => {})') // however late we look, the reload has not ended
  const { primary } = cluster.primary.messages.find((message) =>
    Object.hasOwn(message as object, 'primary'),
  ) as {
    primary: number
  }
  sendSignal(primary, 'SIGHUP')
  await until(() => workersOf(primary).length === 3, { what: 'a reload to have begun', every: 1 })
  sendSignal(primary, 'SIGKILL')
  await until(() => cluster.primary.tree().length === 0, { what: 'all to go', deadline: 10_000 })
})

describe('a worker that cannot notice that its primary has gone', () => {
  test('is ended by the guardian, once those that can have had their time', async () => {
    const owner = runNode(fixture('guarded.mjs'))
    const [, pids = ''] = await owner.waitFor(/guarded (.*)/)
    const { looping, stopped, dismissed, finishing, guardian } = JSON.parse(pids) as Record<string, number>
    sendSignal(guardian ?? 0, 'SIGKILL') // it is replaced, and the next one knows as much
    await owner.waitFor(/by another one/)
    owner.kill('SIGKILL')
    await owner.exit
    await until(() => ![looping, stopped].some((pid) => isAlive(pid ?? 0)), { what: 'both to be gone' })
    expect(owner.stdout()).toContain('finished')
    expect(isAlive(finishing ?? 0)).toBe(false)
    expect(isAlive(dismissed ?? 0)).toBe(true)
    await until(() => owner.tree().length === 1, { what: 'the guardian to go' })
  })

  test.runIf(isLong)('within 30 s', async () => {
    const cluster = await startCluster()
    cluster.get('/hang', { timeout: 60_000 }).catch(() => {})
    const [, hung] = await cluster.primary.waitFor(/hanging (\d+)/)
    const pids = await cluster.pids()
    const stopped = pids.find((pid) => pid !== Number(hung)) ?? 0
    sendSignal(stopped, 'SIGSTOP')
    cluster.primary.kill('SIGKILL')
    const since = performance.now()
    await cluster.primary.exit
    await until(() => cluster.primary.tree().length === 0, { what: 'nobody to be left', deadline: 40_000 })
    const seconds = (performance.now() - since) / 1_000
    console.info(
      `[orphans] a looping and a stopped worker are gone ${seconds.toFixed(1)} s after their primary`,
    )
    expect(seconds).toBeLessThan(30)
    expect(await isFree(cluster.port)).toBe(true)
  })
})

test('a stop leaves no guardian behind, a killed one is replaced, and SIGTERM to all of a service ends it last', async () => {
  const cluster = await startCluster()
  const guardian = () =>
    pidsOf({ parent: cluster.primary.pid }).find((pid) => /as-one-guardian/.test(commandOf(pid)))
  const first = guardian() ?? 0
  expect(first).toBeGreaterThan(0)
  sendSignal(first, 'SIGKILL')
  const next = await until(() => [guardian()].find((pid) => pid !== first), { what: 'the next one' })
  sendSignal(next, 'SIGTERM')
  cluster.primary.killGroup('SIGTERM')
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
  expect(cluster.primary.tree()).toEqual([])
})
