import { existsSync } from 'node:fs'
import { beforeAll, expect, test } from 'vitest'
import type { Bus } from '../../src/bus/index.ts'
import { type NodeProcess, runNode } from '../helpers/fork.ts'
import { sharedRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { openBus } from '../suites/bus-suite.ts'

const script = new URL('bus-process.mjs', import.meta.url)

beforeAll(() => {
  if (!existsSync(new URL('../../dist/index.js', import.meta.url)))
    throw new Error('dist/ is missing: npm run build')
})

interface Heard {
  heard: unknown
  from: string
  self: boolean
}

function heardBy(process: NodeProcess): Heard[] {
  return (process.messages as Partial<Heard>[]).filter((message): message is Heard => 'heard' in message)
}

async function startProcess(url: string, namespace: string): Promise<NodeProcess> {
  const process = runNode(script, { ipc: true, env: { REDIS_URL: url, AS_ONE_NAMESPACE: namespace } })
  await process.waitFor(() => process.messages.some((message) => 'ready' in (message as object)), 30_000)
  return process
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, at) => from + at)

async function exchange(url: string, namespace: string): Promise<NodeProcess[]> {
  const processes = await Promise.all([1, 2, 3].map(() => startProcess(url, namespace)))
  for (const process of processes) process.send({ command: 'broadcast', from: 0, to: 100 })
  await until(() => processes.every((process) => heardBy(process).length >= 300), {
    what: 'all messages everywhere',
  })
  for (const process of processes) {
    const heard = heardBy(process)
    expect(heard).toHaveLength(300)
    const publishers = [...new Set(heard.map(({ from }) => from))]
    expect(publishers).toHaveLength(3)
    for (const publisher of publishers) {
      const own = heard.filter(({ from }) => from === publisher)
      expect(own.map((one) => one.heard)).toEqual(range(0, 100))
      const { ready } = process.messages.find((message) => 'ready' in (message as object)) as {
        ready: string
      }
      expect(own.every(({ self }) => self === (publisher === ready))).toBe(true)
    }
  }
  return processes
}

test('plain processes without a primary are one bus, and one that is killed takes nobody along', async () => {
  const namespace = testNamespace()
  const { url } = sharedRedis()
  const processes = await exchange(url, namespace)
  const watcher: Bus = openBus(url, namespace, 'test')
  await watcher.subscribe('x', () => {}).ready
  const pids = (): number[] => watcher.members().flatMap(({ pid, self }) => (self ? [] : [pid]))
  await until(() => pids().length === 3, { what: 'all members to be known' })
  expect(pids().sort()).toEqual(processes.map(({ pid }) => pid).sort())

  const [killed, other, last] = processes as [NodeProcess, NodeProcess, NodeProcess]
  killed.kill('SIGKILL')
  await killed.exit
  other.send({ command: 'publish', payload: 'after' })
  await until(() => [other, last].every((process) => heardBy(process).length === 301), {
    what: 'the others to go on',
  })
  expect(other.messages).toContainEqual({ receipt: { local: 0, remote: 'sent' } })

  // An orderly end: everything sent, the others told, the process gone by itself.
  other.send({ command: 'close', last: 500 })
  expect(await other.exit).toEqual({ code: 0, signal: null })
  await until(() => heardBy(last).length === 801, { what: 'the last words' })
  expect(
    heardBy(last)
      .slice(-500)
      .map(({ heard }) => heard),
  ).toEqual(range(0, 500).map((at) => `last ${at}`))
  await until(() => !pids().includes(other.pid), { what: 'its leaving to be known', deadline: 4_500 })
  expect(`${other.stderr()}${last.stderr()}`).toBe('')
})

test('the same on Redis Cluster', async () => {
  const cluster = await startRedisCluster()
  for (const process of await exchange(cluster.url, testNamespace())) {
    process.send({ command: 'close', last: 0 })
    expect(await process.exit).toEqual({ code: 0, signal: null })
  }
})
