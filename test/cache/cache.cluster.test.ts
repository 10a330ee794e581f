import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import type { CacheOptions, CacheStats } from '../../src/cache/index.ts'
import { freePort, type NodeProcess, runNode, until } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { long } from '../helpers/long.ts'
import { sharedRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'

interface User {
  process: NodeProcess
  ask<T = unknown>(command: string, args?: object, deadline?: number): Promise<T>
}

let ids = 0

/** Loads by itself when Redis is away, which a Redis of a busy machine must not be taken for. */
const patient = { timeout: '5s' } as const

async function user(url: string, namespace: string, options: CacheOptions = {}): Promise<User> {
  const script = new URL('fixtures/user.mjs', import.meta.url)
  const args = [url, namespace, JSON.stringify({ ...patient, ...options })]
  const process = runNode(script, { ipc: true, args })
  await process.waitFor(() => process.messages.length > 0, 30_000)
  return {
    process,
    async ask<T>(command: string, args: object = {}, deadline = 20_000) {
      const id = ids++
      process.send({ id, command, ...args })
      const answer = () => process.messages.find((message) => (message as { id?: number }).id === id)
      const found = (await process.waitFor(answer, deadline)) as { value: T; error?: string }
      if (found.error) throw new Error(found.error)
      return found.value
    },
  }
}

const users = (count: number, url: string, namespace: string, options?: CacheOptions): Promise<User[]> =>
  Promise.all(Array.from({ length: count }, () => user(url, namespace, options)))

async function untilOn({ ask }: User): Promise<void> {
  const isOn = async () => {
    await ask('get', { key: 'on' })
    return (await ask<CacheStats>('stats')).l1.on
  }
  await until(isOn, { what: 'the copies to count', deadline: 15_000 })
}

const machineMs = (): number => Number(process.hrtime.bigint() / 1000n) / 1000

describe.each(['one Redis', 'a Redis Cluster'])('processes on %s', (kind) => {
  let url: string
  beforeAll(async () => {
    url = kind === 'one Redis' ? sharedRedis().url : (await startRedisCluster()).url
  })
  const open = (): [url: string, namespace: string] => [url, testNamespace()]

  test('four with 250 callers each run one loader', async () => {
    const all = await users(4, ...open())
    await Promise.all(all.map(untilOn))
    for (let round = 0; round < 5; round++) {
      const load = { key: `cold ${round}`, callers: 250, ms: 200 }
      const results = await Promise.all(all.map(({ ask }) => ask<{ values: string[] }>('load', load)))
      expect(new Set(results.flatMap(({ values }) => values)).size).toBe(1)
    }
    const loads = await Promise.all(all.map(({ ask }) => ask<number>('loads')))
    expect(loads.reduce((sum, each) => sum + each)).toBe(5)
  })

  test('a leader that is killed is replaced within its lease', async () => {
    const all = await users(4, ...open(), { lease: '1s' })
    await Promise.all(all.map(untilOn))
    const load = { key: 'killed', callers: 50, ms: 5_000 }
    const [leader, ...others] = all as [User, ...User[]]
    leader.ask('load', load).catch(() => {})
    await leader.process.waitFor(() =>
      leader.process.messages.some((message) => 'loading' in (message as object)),
    )
    const waiting = others.map(({ ask }) =>
      ask<{ values: string[]; longestPauseMs: number }>('load', { ...load, ms: 50 }),
    )
    await sleep(600) // the lease has been renewed by now
    leader.process.kill('SIGKILL')
    const killedAt = performance.now()
    const results = await Promise.all(waiting)
    const slowest = performance.now() - killedAt
    const pause = Math.max(...results.map(({ longestPauseMs }) => longestPauseMs))
    console.info(
      `[cache] leader killed: slowest of 150 callers ${Math.round(slowest)} ms later, lease 1000 ms, longest pause of a process ${Math.round(pause)} ms`,
    )
    expect(new Set(results.flatMap(({ values }) => values)).size).toBe(1)
    expect(slowest).toBeLessThan(1_500 + pause)
    const loads = await Promise.all(others.map(({ ask }) => ask<number>('loads')))
    expect(loads.reduce((sum, each) => sum + each)).toBe(1)
  })

  test('a loader that takes five leases runs once', async () => {
    const lease = long(600, 1_000)
    const all = await users(3, ...open(), { lease })
    await Promise.all(all.map(untilOn))
    const countLoads = async (): Promise<number> =>
      (await Promise.all(all.map(({ ask }) => ask<number>('loads')))).reduce((sum, each) => sum + each)
    for (let attempt = 1; ; attempt++) {
      const before = await countLoads()
      const load = { key: `slow ${attempt}`, callers: 20, ms: long(1_500, 5_000) }
      const results = await Promise.all(
        all.map(({ ask }) => ask<{ values: string[]; longestPauseMs: number }>('load', load)),
      )
      // Who stands still for two thirds of its lease cannot renew it.
      const pause = Math.max(...results.map(({ longestPauseMs }) => longestPauseMs))
      if (pause > lease / 3 && attempt < 10) continue
      expect(new Set(results.flatMap(({ values }) => values)).size).toBe(1)
      expect((await countLoads()) - before).toBe(1)
      break
    }
  })

  test('one that slept through a write does not answer from before it', async () => {
    const maxStaleness = long(300, 1_000)
    const [writer, reader] = (await users(2, ...open(), { maxStaleness })) as [User, User]
    await untilOn(reader)
    let worst = 0
    for (let round = 0; round < long(2, 10); round++) {
      await writer.ask('set', { key: 'k', value: `old ${round}` })
      const watching = reader.ask<{ lastOld: number; reads: number }>('watch', {
        key: 'k',
        old: `old ${round}`,
        forMs: 4 * maxStaleness + 1_000,
      })
      await until(() => reader.ask<number>('lastOld'), { what: 'it to read' })
      process.kill(reader.process.pid, 'SIGSTOP')
      await sleep(50)
      await writer.ask('set', { key: 'k', value: 'new' })
      const resolvedAt = machineMs()
      await sleep(2 * maxStaleness)
      process.kill(reader.process.pid, 'SIGCONT')
      const { lastOld, reads } = await watching
      expect(reads).toBeGreaterThan(500)
      expect(lastOld).toBeGreaterThan(0)
      worst = Math.max(worst, lastOld - resolvedAt)
    }
    console.info(`[cache] stopped process: last old read ${Math.round(worst)} ms after the write`)
    expect(worst).toBeLessThan(maxStaleness)
  })
})

test('copies take the memory that they are counted with, within a tenth', async () => {
  const script = new URL('fixtures/memory.mjs', import.meta.url)
  const args = [sharedRedis().url, testNamespace()]
  const run = runNode(script, { args, nodeArgs: ['--expose-gc'] })
  await run.waitFor(/heap/, 60_000)
  const { bytes, heap, entries } = JSON.parse(run.stdout()) as Record<'bytes' | 'heap' | 'entries', number>
  console.info(`[cache] memory of ${entries} copies: counted ${bytes}, taken ${heap}`)
  expect(heap / bytes).toBeGreaterThan(0.9)
  expect(heap / bytes).toBeLessThan(1.1)
})

describe('workers behind their primary', () => {
  interface Answer<T> {
    pid: number
    value: T
  }

  async function start(options: CacheOptions = {}) {
    const port = await freePort()
    const [url, namespace] = [sharedRedis().url, testNamespace()]
    const primary = runNode(new URL('fixtures/cluster.mjs', import.meta.url), {
      args: [JSON.stringify({ ...patient, ...options })],
      env: { PORT: String(port), APP_REDIS: url, APP_NAMESPACE: namespace },
    })
    const writing = user(url, namespace)
    await primary.waitFor(/started/, 20_000)
    const ask = async <T>(path: string): Promise<Answer<T>> =>
      JSON.parse((await get(`http://127.0.0.1:${port}${path}`)).body)
    /** Until both workers have said it. */
    const both = async (path: string, holds: (value: never) => boolean, deadline = 10_000): Promise<void> => {
      const agreed = new Set<number>()
      const look = async () => {
        const { pid, value } = await ask<never>(path)
        if (holds(value)) agreed.add(pid)
        else agreed.delete(pid)
        return agreed.size === 2
      }
      await until(look, { what: `both workers to agree on ${path}`, every: 2, deadline })
    }
    return { primary, ask, both, writer: await writing }
  }

  test('hear of a write through its hub, and count on nothing when it is stopped', async () => {
    const { primary, ask, both, writer } = await start()
    const isOn = ({ l1 }: CacheStats): boolean => l1.on
    expect((await ask('/get?key=by-primary')).value).toBe('yes')
    await writer.ask('set', { key: 'k', value: 'old' })
    await both('/get?key=k', (value) => value === 'old')
    await both('/stats', isOn)
    await both('/get?key=k', (value) => value === 'old')
    await both('/copy?key=k', (value) => value === 'old')
    await writer.ask('set', { key: 'k', value: 'new' })
    await both('/copy?key=k', (value) => value !== 'old')
    await both('/get?key=k', (value) => value === 'new')
    await both('/copy?key=k', (value) => value === 'new')

    // Requests reach the workers through the primary, so the question is asked when it runs again.
    process.kill(primary.pid, 'SIGSTOP')
    await writer.ask('set', { key: 'k', value: 'newer' })
    await sleep(1_200)
    process.kill(primary.pid, 'SIGCONT')
    for (let round = 0; round < 20; round++) expect((await ask('/get?key=k')).value).toBe('newer')
    await both('/stats', isOn)
  })
  test('need not wait for the lease of one that has died: the primary has seen it', async () => {
    const { primary, ask, both } = await start({ lease: '20s' })
    await both('/get?key=none', () => true)
    const loads = () =>
      primary.lines.filter((line) => line.startsWith('loading')).map((line) => line.slice(8))
    for (let round = 0; round < long(2, 10); round++) {
      const before = loads().length
      const calls = [1, 2, 3, 4, 5, 6].map(() => ask<string>(`/load?key=k${round}&ms=2000`).catch(() => {}))
      await primary.waitFor(() => loads().length > before)
      await sleep(300) // the other one is waiting for it
      process.kill(Number(loads().at(-1)), 'SIGKILL')
      const killedAt = performance.now()
      await primary.waitFor(() => loads().length > before + 1, 15_000)
      const late = performance.now() - killedAt
      console.info(
        `[cache] worker killed: loaded by another one after ${Math.round(late)} ms, lease 20,000 ms`,
      )
      await Promise.all(calls)
      expect(loads().length).toBe(before + 2)
      await both('/get?key=none', () => true)
    }
  })
})
