import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { type Bus, type BusOptions, createBus, type Gap } from '../../src/bus/index.ts'
import { createKeys } from '../../src/core/keys.ts'
import { createRedisSource } from '../../src/redis/source.ts'
import { sharedRedis, startRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { listen } from '../suites/bus-suite.ts'

const LOG: BusOptions = { topics: { audit: { delivery: 'log', maxLen: 1_000 } } }

function open(url: string, namespace: string, machine: string, options = LOG): Bus {
  const source = createRedisSource(url, { name: 'test', env: {}, cwd: '/', id: `${machine} ${url}` })
  const bus = createBus({ keys: createKeys(namespace), source, options })
  onTestFinished(() => bus.close())
  return bus
}

function gapsOf(bus: Bus): Gap[] {
  const gaps: Gap[] = []
  bus.on('gap', (gap) => gaps.push(gap))
  return gaps
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, at) => from + at)

test('a log topic has one order for everybody, the publishers included', async () => {
  const namespace = testNamespace()
  const buses = ['a', 'a', 'b'].map((machine) => open(sharedRedis().url, namespace, machine))
  const ears = await Promise.all(buses.map((bus) => listen(bus, 'audit')))
  for (let at = 0; at < 100; at++) {
    for (const bus of buses) bus.broadcast('audit', { at, from: bus.id })
    if (at % 7 === 0) await nextTurn()
  }
  await until(() => ears.every(({ heard }) => heard.length === 300), { what: 'all messages everywhere' })
  const [first] = ears.map((ear) => ear.payloads())
  for (const ear of ears) expect(ear.payloads()).toEqual(first)
  for (const bus of buses) {
    const own = ears[0]!.heard.filter(({ meta }) => meta.from === bus.id)
    expect(own.map(({ meta }) => meta.sequence)).toEqual(range(1, 101))
  }
  expect(await buses[0]!.publish('audit', 'x', { self: false })).toEqual({ local: 0, remote: 'sent' })
  await until(() => ears[1]!.heard.length === 301, { what: 'the last one' })
  expect(ears[0]!.heard).toHaveLength(300)
  await expect(buses[0]!.publish('audit', 1, { to: 'machine' })).rejects.toThrow(/'audit' is a log topic/)
})

test.each(['one server', 'a cluster'])(
  'what was missed is replayed, once and in order, on %s',
  async (kind) => {
    const server = kind === 'one server' ? await startRedis() : undefined
    const cluster = server ? undefined : await startRedisCluster()
    const url = (server ?? cluster)!.url
    const namespace = testNamespace()
    const [one, other] = [open(url, namespace, 'a'), open(url, namespace, 'b')]
    const gaps = gapsOf(other)
    const ear = await listen(other, 'audit')
    await one.subscribe('x', () => {}).ready
    const node = server ?? (await cluster!.ownerOf(`${namespace}:b:`))
    for (let kill = 0; kill < 5; kill++) {
      for (let at = 0; at < 40; at++) {
        one.broadcast('audit', kill * 40 + at)
        await nextTurn()
      }
      await node.client().call('CLIENT', 'KILL', 'TYPE', kill % 2 ? 'normal' : 'pubsub', 'SKIPME', 'yes')
    }
    await until(() => ear.heard.length >= 200, { what: 'everything', deadline: 15_000 })
    expect(ear.payloads()).toEqual(range(0, 200))
    expect(gaps).toEqual([])
  },
)

test('what Redis no longer holds is a gap, with its count', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const [one, cutOff] = [open(redis.url, namespace, 'a'), open(proxy.url(), namespace, 'b')]
  const gaps = gapsOf(cutOff)
  const ear = await listen(cutOff, 'audit')
  await one.publish('audit', 0)
  await until(() => ear.heard.length === 1, { what: 'the first' })
  await proxy.refuse(true)
  proxy.reset()
  for (const at of range(1, 3_001)) one.broadcast('audit', at)
  await one.publish('audit', 'end')
  await proxy.refuse(false)
  await until(() => ear.payloads().at(-1) === 'end', { what: 'the end', deadline: 15_000 })
  const numbers = ear.payloads().slice(1, -1) as number[]
  expect(gaps).toEqual([
    { publisher: undefined, topic: 'audit', from: 1, to: gaps[0]?.to, count: gaps[0]?.to, cause: 'trimmed' },
  ])
  expect(numbers).toEqual(range(gaps[0]!.to! + 1, 3_001))
  expect(numbers.length).toBeGreaterThanOrEqual(999)
})

test('FLUSHALL is a new history: one gap, and the log goes on', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const [one, other] = [open(redis.url, namespace, 'a'), open(redis.url, namespace, 'b')]
  const gaps = gapsOf(other)
  const ear = await listen(other, 'audit')
  await one.publish('audit', 1)
  await until(() => ear.heard.length === 1, { what: 'the first' })
  await redis.client().flushall()
  await one.publish('audit', 2)
  await one.publish('audit', 3)
  await until(() => ear.heard.length === 3, { what: 'all three' })
  expect(ear.payloads()).toEqual([1, 2, 3])
  expect(gaps).toEqual([expect.objectContaining({ topic: 'audit', count: null, cause: 'reset' })])
})

test('mistakes in the options are told together, by name', () => {
  const bad = {
    maxPayload: 1,
    overflow: 'block',
    topics: { 'a.*': {}, b: { delivery: 'stream' }, c: { maxLen: 5 } },
  }
  expect(() => open(sharedRedis().url, testNamespace(), 'a', bad as never)).toThrow(
    /overflow.*drop-oldest.*(topics: |topics\.)b.*delivery.*log/,
  )
})
