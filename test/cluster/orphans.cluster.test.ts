import { expect, test } from 'vitest'
import { isAlive, pidsOf, until } from '../helpers/fork.ts'
import { steadyLoad } from '../helpers/http.ts'
import { isFree } from '../helpers/ports.ts'
import { sendSignal } from '../helpers/processes.ts'
import { fixture, startCluster, type TestCluster, whenInFlight } from './start-cluster.ts'

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
  await until(() => pidsOf({ parent: primary }).filter((pid) => !crashed.includes(pid)).length === 2, {
    what: 'the replacement',
  })
  expect((await cluster.get('/')).status).toBe(200)
  expect(isAlive(primary)).toBe(true)
  sendSignal(primary, 'SIGTERM')
  await whenNobodyIsLeft(cluster)
})

test('workers that have not come up go at once', async () => {
  const cluster = await startCluster({ script: fixture('pipe-launcher.mjs') })
  const { primary } = cluster.primary.messages.find((message) =>
    Object.hasOwn(message as object, 'primary'),
  ) as {
    primary: number
  }
  sendSignal(primary, 'SIGHUP')
  await until(() => cluster.primary.tree().length === 4, { what: 'a reload to have begun', every: 1 })
  sendSignal(primary, 'SIGKILL')
  await until(() => cluster.primary.tree().length === 0, { what: 'all to go', deadline: 10_000 })
})
