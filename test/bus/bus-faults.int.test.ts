import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { type Bus, createBus } from '../../src/bus/index.ts'
import { channels } from '../../src/core/channels.ts'
import { createKeys } from '../../src/core/keys.ts'
import { createRedisSource } from '../../src/redis/source.ts'
import { track } from '../helpers/cleanup.ts'
import { freePort } from '../helpers/ports.ts'
import { startRedis, startRedisCluster, startSentinel, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { type Ear, listen, openBus } from '../suites/bus-suite.ts'

const clock = runningClock()

const unhandled: unknown[] = []
const onUnhandled = (error: unknown): void => void unhandled.push(error)

beforeEach(() => {
  process.on('unhandledRejection', onUnhandled)
})
afterEach(() => {
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled.splice(0)).toEqual([])
})

/** Begun before all the others, which take longer than its 10 s; the last test says what has come of it. */
const unreachable = {
  port: 0,
  bus: undefined as Bus | undefined,
  heard: [] as unknown[],
  failed: undefined as Promise<{ error: unknown; wallMs: number; afterMs: number }> | undefined,
}
beforeAll(async () => {
  const port = await freePort()
  const url = `redis://:hunter2@127.0.0.1:${port}`
  const source = createRedisSource(url, { name: 'test', env: {}, cwd: '/', id: url })
  const bus = createBus({ keys: createKeys(testNamespace()), source })
  track({ [Symbol.asyncDispose]: () => bus.close() })
  const [startedAt, wallStartedAt] = [clock(), performance.now()]
  const { ready } = bus.subscribe('news', (payload) => void unreachable.heard.push(payload))
  const failed = ready.then(
    () => ({ error: undefined, wallMs: 0, afterMs: 0 }),
    (error: unknown) => ({
      error,
      wallMs: performance.now() - wallStartedAt,
      afterMs: clock() - startedAt,
    }),
  )
  bus.subscribe('news', () => {}) // whose ready nobody awaits
  bus.broadcast('news', 1)
  Object.assign(unreachable, { port, bus, failed })
  // By itself, long before it is known whether there is a Redis.
  await until(() => unreachable.heard.length === 1, { what: 'own message', deadline: 5_000, every: 1 })
})

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, at) => from + at)

/** 'degraded' and 'restored' as they come. */
function eventsOf(bus: Bus): string[] {
  const events: string[] = []
  bus.on('degraded', () => events.push('degraded'))
  bus.on('restored', () => events.push('restored'))
  return events
}

/** What is promised even while messages may be lost: nothing twice, nothing out of order. */
function expectOrdered(ear: Ear): void {
  for (const from of new Set(ear.heard.map(({ meta }) => meta.from))) {
    const sequences = ear.heard.filter(({ meta }) => meta.from === from).map(({ meta }) => meta.sequence)
    expect(sequences).toEqual([...new Set(sequences)].sort((a, b) => a - b))
  }
}

test('while Redis is down this machine hears itself as before, and receipts say queued', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const [one, two] = [1, 2].map(() => openBus(redis.url, namespace, 'a')) as [Bus, Bus]
  const [ear, otherEar] = [await listen(one, 'news'), await listen(two, 'news')]
  const events = eventsOf(one)
  await redis.kill()
  await until(() => events.length > 0, { what: 'the loss to be noticed' })
  const waits: number[] = []
  for (let at = 0; at < 100; at++) {
    const startedAt = clock()
    expect(await one.publish('news', at)).toEqual({ local: 1, remote: 'queued' })
    await until(() => otherEar.heard.length === at + 1, { what: 'the neighbour to hear it', every: 1 })
    waits.push(clock() - startedAt)
  }
  expect(Math.max(...waits)).toBeLessThan(500)
  expect(waits.sort((a, b) => a - b)[50]).toBeLessThan(50)
  await until(() => ear.heard.length === 100, { what: 'all own messages' })
  expect(ear.payloads()).toEqual(range(0, 100))
  expect(otherEar.payloads()).toEqual(range(0, 100))
  await redis.restart()
  await until(() => events.at(-1) === 'restored', { what: 'the bus to be restored' })
  expect(events).toEqual(['degraded', 'restored'])
  await until(async () => (await one.publish('news', 'later')).remote === 'sent', {
    what: 'a receipt that says sent',
  })
})

test('what was queued arrives when Redis is back: all of it, once, in order', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const [cutOff, far] = [openBus(proxy.url(), namespace, 'a'), openBus(redis.url, namespace, 'b')]
  const [ear, farEar] = [await listen(cutOff, 'news'), await listen(far, 'news')]
  const events = eventsOf(cutOff)
  for (const at of range(0, 100)) cutOff.broadcast('news', at)
  await proxy.refuse(true)
  proxy.reset()
  for (const at of range(100, 600)) {
    cutOff.broadcast('news', at)
    if (at % 20 === 0) await nextTurn()
  }
  await until(() => events.includes('degraded') && ear.heard.length === 600, {
    what: 'the loss to be noticed',
  })
  expect(farEar.heard.length).toBeLessThan(600)
  await proxy.refuse(false)
  await until(() => farEar.heard.length >= 600, { what: 'what was queued' })
  cutOff.broadcast('news', 600)
  await until(() => farEar.heard.length >= 601, { what: 'what comes after' })
  expect(farEar.payloads()).toEqual(range(0, 601))
  expect(ear.payloads()).toEqual(range(0, 601))
})

test('a PUBLISH whose reply was lost is sent again and heard once', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const [cutOff, far] = [openBus(proxy.url(), namespace, 'a'), openBus(redis.url, namespace, 'b')]
  await cutOff.subscribe('x', () => {}).ready
  const farEar = await listen(far, 'news')
  for (let round = 0; round < 3; round++) {
    const next = farEar.heard.length
    proxy.freeze('down')
    const receipt = cutOff.publish('news', next)
    await until(() => farEar.heard.length > next, { what: 'the message' })
    proxy.reset()
    proxy.unfreeze()
    expect((await receipt).remote).toBe('queued')
    await cutOff.publish('news', next + 1)
    await until(() => farEar.heard.length >= next + 2, { what: 'the next message' })
  }
  expect(farEar.payloads()).toEqual(range(0, 6))
})

test('what does not fit the outbox is dropped, the oldest first, and said so', async () => {
  const port = await freePort()
  const bus = openBus(`redis://127.0.0.1:${port}`, testNamespace(), 'a')
  const overflows: unknown[] = []
  const onBus = (event: unknown): void =>
    void ((event as { event: string }).event === 'outbox-overflow' && overflows.push(event))
  channels.bus.subscribe(onBus)
  onTestFinished(() => void channels.bus.unsubscribe(onBus))
  const big = 'x'.repeat(1_000_000)
  const receipts = await Promise.all(range(0, 12).map((at) => bus.publish('news', [at, big])))
  expect(receipts.map(({ remote }) => remote)).toEqual([
    ...Array(4).fill('dropped'),
    ...Array(8).fill('queued'),
  ])
  expect(overflows).toHaveLength(4)
})

test('CLIENT KILL again and again under load: nothing twice, nothing out of order, and whole again afterwards', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const buses = ['a', 'a', 'b', 'c'].map((machine) => openBus(redis.url, namespace, machine))
  const ears = await Promise.all(buses.map((bus) => listen(bus, 'news')))
  const admin = redis.client()
  let sent = 0
  for (let kill = 0; kill < 10; kill++) {
    for (let turn = 0; turn < 40; turn++) {
      for (const bus of buses) bus.broadcast('news', sent)
      sent++
      await nextTurn()
    }
    await admin.call('CLIENT', 'KILL', 'TYPE', kill % 2 ? 'normal' : 'pubsub', 'SKIPME', 'yes')
  }
  await expectWhole(buses, ears)
  for (const [index, ear] of ears.entries()) {
    expectOrdered(ear)
    const neighbours = buses.filter((_, other) => (index < 2 ? other < 2 : other === index))
    for (const { id } of neighbours) // the same machine needs no Redis
      expect(
        ear.heard.filter(({ meta }) => meta.from === id && typeof meta.sequence === 'number').length,
      ).toBeGreaterThanOrEqual(sent)
  }
})

/** From some moment on every message gets everywhere again. */
async function expectWhole(buses: readonly Bus[], ears: readonly Ear[]): Promise<void> {
  const marks = new Map(buses.map((bus) => [bus, 0]))
  await until(
    async () => {
      for (const [bus, mark] of marks) {
        bus.broadcast('news', `${bus.id} ${mark + 1}`)
        marks.set(bus, mark + 1)
      }
      await nextTurn()
      return ears.every((ear) => {
        const payloads = new Set(ear.payloads())
        return buses.every((bus) =>
          range(1, marks.get(bus)!)
            .slice(-3)
            .every((mark) => payloads.has(`${bus.id} ${mark}`)),
        )
      })
    },
    { what: 'all to hear all again', deadline: 15_000, every: 100 },
  )
}

test('a restart of Redis under load', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const buses = ['a', 'b', 'c'].map((machine) => openBus(redis.url, namespace, machine))
  const ears = await Promise.all(buses.map((bus) => listen(bus, 'news')))
  const restarting = redis.restart()
  for (let at = 0; at < 300; at++) {
    for (const bus of buses) bus.broadcast('news', at)
    await nextTurn()
  }
  await restarting
  await expectWhole(buses, ears)
  for (const ear of ears) expectOrdered(ear)
  await until(() => buses.every((bus) => bus.members().length === 3), {
    what: 'all members to be known again',
  })
})

test('a bus without the right to publish says so and still hears', async () => {
  const redis = await startRedis()
  await redis.client().call('ACL', 'SETUSER', 'reader', 'on', '>pw', '~*', '&*', '+@all', '-publish')
  const namespace = testNamespace()
  const mute = openBus(redis.url.replace('://', '://reader:pw@'), namespace, 'a')
  const other = openBus(redis.url, namespace, 'b')
  const [ear] = [await listen(mute, 'news'), await listen(other, 'news')]
  expect(await mute.publish('news', 1, { self: false })).toEqual({ local: 0, remote: 'dropped' })
  other.broadcast('news', 2)
  await until(() => ear.heard.length === 1, { what: 'the message' })
})

test('Cluster: the bus follows its slot', { timeout: 120_000 }, async () => {
  const cluster = await startRedisCluster()
  const namespace = testNamespace()
  const buses = ['a', 'b'].map((machine) => openBus(cluster.url, namespace, machine))
  const ears = await Promise.all(buses.map((bus) => listen(bus, 'news')))
  const channel = `${namespace}:b:`
  const owner = await cluster.ownerOf(channel)
  const target = cluster.nodes.find((node) => node !== owner)!
  await cluster.moveSlots(owner, target, [(await cluster.client().cluster('KEYSLOT', channel)) as number])
  await expectWhole(buses, ears)
  await target.kill() // without a replica the slot is gone: nothing but local delivery
  const before = ears[0]!.heard.length
  buses[0]!.broadcast('news', 'local')
  await until(() => ears[0]!.heard.length > before, { what: 'own message' })
  await target.restart()
  await cluster.settled()
  await expectWhole(buses, ears)
  for (const ear of ears) expectOrdered(ear)
})

test('Sentinel: the bus follows the master', { timeout: 120_000 }, async () => {
  const sentinel = await startSentinel()
  const namespace = testNamespace()
  const buses = ['a', 'b'].map((machine) => openBus(sentinel.url, namespace, machine))
  const ears = await Promise.all(buses.map((bus) => listen(bus, 'news')))
  for (const bus of buses) expect((await bus.publish('news', 'before')).remote).toBe('sent')
  await sentinel.failover()
  await expectWhole(buses, ears)
  for (const ear of ears) expectOrdered(ear)
})

test('an unreachable Redis: ready rejects after 10 s and says where, nothing else happens, close() is prompt', async () => {
  const { port, bus, heard, failed } = unreachable
  const { error, wallMs, afterMs } = await failed!
  expect(error).toMatchObject({ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' })
  const { message } = error as Error
  expect(message).toContain(`127.0.0.1:${port}`)
  expect(message).not.toContain('hunter2')
  expect(wallMs).toBeGreaterThan(9_900)
  expect(afterMs).toBeLessThan(11_000)
  expect(heard).toEqual([1])
  const closingAt = clock()
  await bus!.close()
  expect(clock() - closingAt).toBeLessThan(2_500)
})
