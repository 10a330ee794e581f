import { beforeAll, describe, expect, test } from 'vitest'
import type { Receipt } from '../../src/index.ts'
import { isAlive, until } from '../helpers/fork.ts'
import { sendSignal } from '../helpers/processes.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { startCluster, type TestCluster, type Who, whenInFlight } from './start-cluster.ts'

interface Heard {
  topic: string
  payload: unknown
  self: boolean
}

interface Member {
  id: string
  pid: number
  index: number
  self: boolean
}

let redis: PrivateRedis
let clusters: [TestCluster, TestCluster]
let workers: number[]

/** Asks a certain worker: which one answers is up to round robin. */
async function askOf<T>(cluster: TestCluster, pid: number, path: string): Promise<T> {
  return until(
    async () => {
      const reply = await cluster.get(path)
      const { pid: answered, answer } = reply.json<{ pid: number; answer: T }>()
      return answered === pid && { answer }
    },
    { what: `worker ${pid} to answer`, every: 1 },
  ).then(({ answer }) => answer)
}

async function heardBy(pid: number): Promise<Heard[]> {
  const cluster = await clusterOf(pid)
  return askOf<Heard[]>(cluster, pid, '/heard')
}

async function clusterOf(pid: number): Promise<TestCluster> {
  return (await clusters[0].pids()).includes(pid) ? clusters[0] : clusters[1]
}

async function whenHeardByAll(pids: readonly number[], payload: string): Promise<void> {
  for (const pid of pids) {
    await until(async () => (await heardBy(pid)).some((each) => each.payload === payload), {
      what: `worker ${pid} to hear ${payload}`,
    })
  }
}

beforeAll(async () => {
  redis = await startRedis({ socket: true })
  const start = { redisUrl: redis.url, namespace: testNamespace(), env: { LOG: '1' } }
  clusters = [await startCluster(start), await startCluster(start)]
  workers = (await Promise.all(clusters.map((cluster) => cluster.pids()))).flat() as number[]
  for (const pid of workers) {
    const cluster = await clusterOf(pid)
    await until(async () => (await askOf<Member[]>(cluster, pid, '/members')).length === 4, {
      what: `worker ${pid} to have met all`,
    })
  }
})

test('two Redis connections per machine, none per worker', async () => {
  const client = redis.client()
  const names = await until(
    async () => {
      const list = String(await client.client('LIST'))
      const found = [...list.matchAll(/\bname=(as-one:\S+)/g)].map(([, name]) => name)
      return found.length === 4 && found.sort()
    },
    { what: 'four connections' },
  )
  expect(names).toEqual(['as-one:hub', 'as-one:hub', 'as-one:hub-subscriber', 'as-one:hub-subscriber'])
})

test('members() names the workers of both machines, in a primary that has used the bus too', async () => {
  for (const cluster of clusters) {
    const seen = await cluster.ask<Member[]>('/members')
    expect(seen.map(({ pid }) => pid).sort()).toEqual([...workers].sort())
    expect(seen.map(({ index }) => index).sort()).toEqual([0, 0, 1, 1])
    expect(seen.filter(({ self }) => self)).toHaveLength(1)
    await cluster.tell('broadcast', 'joins')
    const ofPrimary = await until(
      async () => {
        const list = await cluster.tell<Member[]>('members')
        return list.length === workers.length && list
      },
      { what: 'the primary to know' },
    )
    expect(ofPrimary.map(({ pid }) => pid).sort()).toEqual([...workers].sort())
    expect(ofPrimary.some(({ self }) => self)).toBe(false)
  }
})

test('what any worker broadcasts, every worker of both hears exactly once', async () => {
  for (const [turn, pid] of workers.entries()) {
    await askOf(await clusterOf(pid), pid, `/broadcast?pid=${pid}&payload=turn-${turn}`)
    await whenHeardByAll(workers, `turn-${turn}`)
  }
  // In order per publisher: once its last message is there, so is everything before it, doubles too.
  for (const pid of workers) {
    await askOf(await clusterOf(pid), pid, `/broadcast?pid=${pid}&payload=last-${pid}`)
    await whenHeardByAll(workers, `last-${pid}`)
  }
  for (const listener of workers) {
    const heard = (await heardBy(listener)).filter(({ payload }) => /^turn-\d$/.test(String(payload)))
    expect(heard.map(({ payload }) => payload).sort()).toEqual(['turn-0', 'turn-1', 'turn-2', 'turn-3'])
    expect(heard.filter(({ self }) => self).map(({ payload }) => payload)).toEqual([
      `turn-${workers.indexOf(listener)}`,
    ])
  }
})

test('publish tells what became of it', async () => {
  const receipt = await clusters[0].ask<Receipt>('/publish?payload=receipt')
  expect(receipt).toEqual({ local: 1, remote: 'sent' })
  await whenHeardByAll(workers, 'receipt')
})

test('the primary sends, and what it has loaded of the app hears nothing', async () => {
  await clusters[0].tell('broadcast', 'from the primary')
  await whenHeardByAll(workers, 'from the primary')
  for (const { primary } of clusters) {
    expect(primary.stdout()).toContain('handler ran in worker')
    expect(primary.stdout()).not.toContain('handler ran in primary')
    expect(primary.stdout()).not.toContain('handler ran in an unknown process')
  }
})

describe('deaths', () => {
  test('a worker that is killed is no member any more, at once', async () => {
    const [cluster, other] = clusters
    const [killed] = (await cluster.pids()) as [number, number]
    const startedAt = performance.now()
    sendSignal(killed, 'SIGKILL')
    const gone = async (): Promise<boolean> =>
      (await other.ask<Member[]>('/members')).every(({ pid }) => pid !== killed)
    await until(gone, { what: 'the other machine to know' })
    expect(performance.now() - startedAt).toBeLessThan(4_000) // hubs tell each other every 5 s anyway
    await until(async () => (await other.ask<Member[]>('/members')).length === 4, {
      what: 'its replacement to join',
    })
    workers = (await Promise.all(clusters.map((each) => each.pids()))).flat() as number[]
  })

  test('workers of a killed primary are their own hubs until they exit', async () => {
    const [cluster, other] = clusters
    const path = '/slow-publish?ms=2500&payload=orphan'
    const orphans = [cluster.ask<Receipt>(path), cluster.ask<Receipt>(path)]
    await whenInFlight(cluster, path, 2)
    const ofOrphans = (await cluster.pids()) as number[]
    cluster.primary.kill('SIGKILL')
    for (const receipt of await Promise.all(orphans)) expect(receipt.remote).toMatch(/^(sent|queued)$/)
    for (const pid of (await other.pids()) as number[]) {
      await until(
        async () =>
          (await askOf<Heard[]>(other, pid, '/heard')).filter(({ payload }) => payload === 'orphan')
            .length === 2,
        { what: `worker ${pid} to hear both orphans` },
      )
    }
    await until(() => !ofOrphans.some(isAlive), { what: 'the orphans to exit', deadline: 25_000 })
    await other.ask<Who>('/')
  })
})

test('options of ioredis, which the primary cannot announce, lead to the same hub', async () => {
  const path = redis.socketPath as string
  const cluster = await startCluster({ redisUrl: null, options: { redis: { path } } })
  await until(async () => (await cluster.ask<Member[]>('/members')).length === 2, {
    what: 'both workers to have met',
  })
  expect(await cluster.ask<Receipt>('/publish?payload=x')).toEqual({ local: 1, remote: 'sent' })
})
