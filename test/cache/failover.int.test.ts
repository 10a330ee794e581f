import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Cache } from '../../src/cache/index.ts'
import { long } from '../helpers/long.ts'
import { startRedisCluster, startSentinel, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilCopied, untilOn, untilSet } from './open-cache.ts'

const MAX_STALENESS_MS = 500
const KEYS = Array.from({ length: 30 }, (_, at) => `key-${at}`)

/**
 * Copies of old values everywhere; then `fault`, and meanwhile writes; no old value may be read later than the bound,
 * and in the end everybody reads what `stored` finds. Writes that the new master has never got are told as lost.
 */
async function worstStaleness(
  writer: Cache,
  readers: readonly Cache[],
  fault: () => Promise<unknown>,
  stored: (key: string) => Promise<string | null>,
) {
  const confirmedAt = new Map<string, number>()
  const worstOf = new Map<string, number>()
  await untilOn(writer)
  await Promise.all(KEYS.map((key) => untilSet(writer, key, 'old')))
  await untilOn(...readers)
  for (const reader of readers) for (const key of KEYS) await untilCopied(reader, key)
  let over = false
  let old = 0
  let reads = 0
  const reading = readers.map(async (reader) => {
    while (!over) {
      for (const key of KEYS) {
        const began = performance.now()
        const seen = await reader.get(key)
        reads += 1
        const at = confirmedAt.get(key)
        if (seen !== 'old' || at === undefined || began <= at) continue
        old += 1
        worstOf.set(key, Math.max(worstOf.get(key) ?? 0, began - at))
      }
      await sleep(1)
    }
  })
  await sleep(100) // a replica has what its master has by now: what is lost with a master is outside the bound
  const writeAll = async (keys: readonly string[]): Promise<void> => {
    for (const key of keys) {
      const write = async () => {
        await writer.set(key, 'new')
        confirmedAt.set(key, performance.now())
        return true
      }
      await until(write, { what: `a write of ${key}`, every: 20, deadline: 30_000 })
    }
  }
  const broken = fault()
  await writeAll(KEYS.slice(0, KEYS.length / 2))
  await broken
  await writeAll(KEYS.slice(KEYS.length / 2)) // an old master that was slow to step down may have taken all of the others
  await sleep(2 * MAX_STALENESS_MS)
  over = true
  await Promise.all(reading)
  await untilOn(...readers)
  let lost = 0
  for (const key of KEYS) {
    const text = await stored(key)
    const value = text?.endsWith('"new"') ? 'new' : text?.endsWith('"old"') ? 'old' : undefined
    if (value !== 'new') {
      lost += 1
      worstOf.delete(key) // asynchronous replication: outside the bound
    }
    for (const reader of readers) {
      const agrees = async () => (await reader.get(key)) === value
      await until(agrees, { what: `${key} to be read as the ${value} that is stored`, deadline: 15_000 })
    }
  }
  expect(lost).toBeLessThan(KEYS.length) // or there is nothing left to judge
  return { worst: Math.round(Math.max(0, ...worstOf.values())), old, reads, lost }
}

test('a Cluster whose masters fail over, planned and killed', { timeout: 240_000 }, async () => {
  const cluster = await startRedisCluster({ replicas: 1 })
  const namespace = testNamespace()
  const options = { maxStaleness: MAX_STALENESS_MS, timeout: 300 }
  const [writer, ...readers] = [1, 2, 3].map(() => openCache(cluster.url, namespace, options)) as [
    Cache,
    ...Cache[],
  ]
  const client = cluster.client()
  const stored = (key: string): Promise<string | null> => client.get(`${namespace}:c:main:${key}`)
  const roleOf = async (node: (typeof cluster.nodes)[number]) =>
    ((await node.client({ maxRetriesPerRequest: 1 }).call('ROLE')) as unknown[])[0]
  for (let round = 0; round < long(1, 3); round++) {
    const replica = async () => {
      for (const node of cluster.nodes) if (node.running && (await roleOf(node)) === 'slave') return node
      return undefined
    }
    const chosen = (await replica())!
    const fail = async (): Promise<void> => {
      await chosen.client().call('CLUSTER', 'FAILOVER')
      await until(async () => (await roleOf(chosen)) === 'master', { what: 'the failover', deadline: 60_000 })
    }
    const planned = await worstStaleness(writer, readers, fail, stored)
    await cluster.settled()
    const kill = async (): Promise<void> => {
      const victim = await cluster.ownerOf(`${namespace}:c:main:${KEYS[0]}`)
      await victim.kill()
    }
    const killed = await worstStaleness(writer, readers, kill, stored)
    console.info(
      `[cache] Cluster failover, planned: ${JSON.stringify(planned)}, killed: ${JSON.stringify(killed)}`,
    )
    expect(planned.worst).toBeLessThanOrEqual(MAX_STALENESS_MS)
    expect(killed.worst).toBeLessThanOrEqual(MAX_STALENESS_MS)
    expect(killed.reads).toBeGreaterThan(1_000)
    for (const node of cluster.nodes) if (!node.running) await node.restart()
    await cluster.settled()
  }
})

test('a master that its sentinels replace', { timeout: 150_000 }, async () => {
  const sentinel = await startSentinel()
  const namespace = testNamespace()
  const options = { maxStaleness: MAX_STALENESS_MS, timeout: 300 }
  const [writer, reader] = [1, 2].map(() => openCache(sentinel.url, namespace, options)) as [Cache, Cache]
  const client = sentinel.client()
  const stored = (key: string): Promise<string | null> => client.get(`${namespace}:c:main:${key}`)
  const planned = await worstStaleness(writer, [reader], () => sentinel.failover(), stored)
  console.info(`[cache] Sentinel failover: ${JSON.stringify(planned)}`)
  expect(planned.worst).toBeLessThanOrEqual(MAX_STALENESS_MS)

  // They name another one, while all our connections are well: nothing that is written there would be heard.
  const master = await sentinel.master()
  const other = sentinel.servers.find((server) => server !== master)!
  await untilOn(reader)
  for (const watcher of sentinel.sentinels) {
    const client = watcher.client()
    await client.call('SENTINEL', 'REMOVE', sentinel.name)
    await client.call('SENTINEL', 'MONITOR', sentinel.name, '127.0.0.1', other.port, 2)
  }
  await until(() => !reader.stats().l1.on, { what: 'the copies to stand aside', every: 5, deadline: 3_000 })
})
