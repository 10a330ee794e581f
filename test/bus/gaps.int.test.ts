import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { encodeMessages, FRAME_VERSION, stampHub } from '../../src/bus/frame.ts'
import type { Bus } from '../../src/bus/index.ts'
import { createKeys } from '../../src/core/keys.ts'
import { isLong, long } from '../helpers/long.ts'
import {
  sharedRedis,
  sharedRedisClient,
  startRedis,
  startRedisCluster,
  testNamespace,
} from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { openBus } from '../suites/bus-suite.ts'
import { expectBalanced, keepAccount, unaccounted } from './ledger.ts'

const clock = runningClock()

const unhandled: unknown[] = []
const onUnhandled = (error: unknown): void => void unhandled.push(error)
beforeEach(() => void process.on('unhandledRejection', onUnhandled))
afterEach(() => {
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled.splice(0)).toEqual([])
})

/** A bus that counts what it has sent. */
interface Sender {
  readonly bus: Bus
  sent: number
}

function send(sender: Sender, count = 1): void {
  for (let at = 0; at < count; at++) sender.bus.broadcast('news', at)
  sender.sent += count
}

/** Subscribed everywhere, and each keeping account of the others. */
async function meet(buses: readonly Bus[]) {
  const accounts = buses.map(keepAccount)
  await Promise.all(buses.map((bus) => bus.subscribe('x', () => {}).ready))
  await until(() => buses.every((bus) => bus.members().length === buses.length), { what: 'all to have met' })
  return { senders: buses.map((bus): Sender => ({ bus, sent: 0 })), accounts }
}

/** Every message of every sender is received or reported by everybody else; returns how many were reported. */
async function settle({ senders, accounts }: Awaited<ReturnType<typeof meet>>): Promise<number> {
  const pairs = senders.flatMap((sender) =>
    accounts.flatMap((account, at) => (senders[at] === sender ? [] : [{ sender, account }])),
  )
  await until(
    () => pairs.every(({ sender, account }) => unaccounted(account, sender.bus.id, sender.sent) <= 0),
    {
      what: 'every message to be received or reported',
      deadline: 25_000,
      every: 50,
    },
  )
  let reported = 0
  for (const { sender, account } of pairs) reported += expectBalanced(account, sender.bus.id, sender.sent)
  return reported
}

test('CLIENT KILL of subscribers again and again under load: everything is received or reported', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const family = await meet(['a', 'a', 'b', 'c'].map((machine) => openBus(redis.url, namespace, machine)))
  const admin = redis.client()
  for (let kill = 0; kill < long(12, 100); kill++) {
    for (let turn = 0; turn < 60; turn++) {
      for (const sender of family.senders) send(sender)
      await nextTurn()
    }
    await admin.call('CLIENT', 'KILL', 'TYPE', kill % 3 ? 'pubsub' : 'normal', 'SKIPME', 'yes')
  }
  expect(await settle(family), 'some were lost, else this test shows nothing').toBeGreaterThan(0)
})

test('without another word from the publisher a gap is known at the heartbeat', {
  timeout: 60_000,
}, async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const family = await meet([openBus(redis.url, namespace, 'a'), openBus(proxy.url(), namespace, 'b')])
  const [sender] = family.senders as [Sender]
  send(sender, 5)
  await until(() => unaccounted(family.accounts[1]!, sender.bus.id, 5) === 0, { what: 'the first five' })
  await proxy.refuse(true)
  proxy.reset()
  send(sender, 7)
  await sender.bus.publish('news') // now Redis has had them
  sender.sent += 1
  await proxy.refuse(false)
  await settle(family)
  expect(family.accounts[1]!.gaps).toEqual([
    {
      publisher: sender.bus.id,
      topic: undefined,
      from: 6,
      to: 13,
      count: 8,
      cause: 'reconnect',
    },
  ])
})

test('a frozen link is noticed within 12 s, and what went by is reported', { timeout: 40_000 }, async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const family = await meet([openBus(redis.url, namespace, 'a'), openBus(proxy.url(), namespace, 'b')])
  const [sender] = family.senders as [Sender]
  const events: string[] = []
  const far = family.senders[1]!.bus
  for (const event of ['degraded', 'restored'] as const) far.on(event, () => events.push(event))
  proxy.freeze()
  const frozenAt = clock()
  send(sender, 100)
  await sender.bus.publish('news')
  sender.sent += 1
  await until(() => events.length > 0, { what: 'the frozen link to be noticed', deadline: 20_000 })
  expect(clock() - frozenAt).toBeLessThan(12_500) // 12 s and a tick of a busy machine
  proxy.reset()
  proxy.unfreeze()
  await settle(family)
  expect(events).toEqual(['degraded', 'restored'])
})

test('a restart of Redis and a FLUSHALL under load: everything is received or reported', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const family = await meet(['a', 'b', 'c'].map((machine) => openBus(redis.url, namespace, machine)))
  for (const fault of [() => redis.restart(), () => redis.client().flushall()]) {
    const done = fault()
    for (let turn = 0; turn < 300; turn++) {
      for (const sender of family.senders) send(sender)
      await nextTurn()
    }
    await done
  }
  await settle(family)
})

test('Cluster: shards, kills and a lost master: everything is received or reported', {
  timeout: 120_000,
}, async () => {
  const cluster = await startRedisCluster()
  const namespace = testNamespace()
  const family = await meet(['a', 'b'].map((machine) => openBus(cluster.url, namespace, machine)))
  const owner = await cluster.ownerOf(`${namespace}:b:`)
  for (let kill = 0; kill < 4; kill++) {
    for (let turn = 0; turn < 50; turn++) {
      for (const sender of family.senders) send(sender)
      await nextTurn()
    }
    await owner.client().call('CLIENT', 'KILL', 'TYPE', kill % 2 ? 'normal' : 'pubsub', 'SKIPME', 'yes')
  }
  await owner.kill()
  for (const sender of family.senders) send(sender, 50)
  await owner.restart()
  await cluster.settled()
  await settle(family)
})

test('what overflows while Redis is away is reported where it is missing', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const family = await meet([openBus(proxy.url(), namespace, 'a'), openBus(redis.url, namespace, 'b')])
  const [sender] = family.senders as [Sender]
  await proxy.refuse(true)
  proxy.reset()
  for (let at = 0; at < 12; at++) {
    sender.bus.broadcast('news', 'x'.repeat(1_000_000))
    sender.sent++
    await nextTurn()
  }
  await proxy.refuse(false)
  expect(await settle(family)).toBeGreaterThanOrEqual(4)
})

test.runIf(isLong)(
  'a publisher that leaves has a last word; one whose machine vanishes is reported once, without a count',
  {
    timeout: 40_000,
  },
  async () => {
    const redis = await startRedis()
    const proxy = await startProxy({ target: { port: redis.port } })
    const namespace = testNamespace()
    const family = await meet([
      openBus(redis.url, namespace, 'a'),
      openBus(redis.url, namespace, 'b'),
      openBus(proxy.url(), namespace, 'c'),
    ])
    const [listener, leaving, vanishing] = family.senders as [Sender, Sender, Sender]
    send(leaving, 20)
    send(vanishing, 20)
    await until(
      () => [leaving, vanishing].every(({ bus }) => unaccounted(family.accounts[0]!, bus.id, 20) === 0),
      { what: 'all messages' },
    )
    await leaving.bus.close()
    await until(
      async () => {
        vanishing.bus.broadcast('news') // heartbeats carry what follows
        return family.accounts[0]!.received[vanishing.bus.id]!.at(-1)![1] > 20
      },
      { what: 'another one' },
    )
    await proxy.refuse(true)
    proxy.reset()
    await until(() => listener.bus.members().length === 1, {
      what: 'both to be gone',
      deadline: 25_000,
      every: 100,
    })
    const gaps = family.accounts[0]!.gaps
    expect(gaps.filter(({ publisher }) => publisher === leaving.bus.id)).toEqual([])
    expect(gaps).toEqual([
      expect.objectContaining({
        publisher: vanishing.bus.id,
        to: undefined,
        count: null,
        cause: 'publisher-lost',
      }),
    ])
  },
)

test('another release on the same Redis: its messages are reported, ours go on', async () => {
  const namespace = testNamespace()
  const redis = sharedRedis()
  const family = await meet([openBus(redis.url, namespace, 'a'), openBus(redis.url, namespace, 'b')])
  const publisher = Buffer.from('fedcba9876543210', 'hex')
  const newer = (first: number, count: number): Buffer => {
    const frame = encodeMessages('whatever it writes', {
      receipt: 0,
      count,
      publisher,
      firstSequence: first,
      sentAt: 0,
      topics: [],
    })
    stampHub(frame, Buffer.from('0123456789abcdef', 'hex'))
    frame.writeUInt8(FRAME_VERSION + 1, 4)
    return frame
  }
  const channel = createKeys(namespace).prefix('bus')
  await sharedRedisClient().publish(channel, Buffer.concat([newer(1, 3), newer(4, 2)]))
  for (const sender of family.senders) send(sender, 3)
  await settle(family)
  for (const { gaps } of family.accounts)
    expect(gaps.map(({ publisher: from, from: first, to, cause }) => [from, first, to, cause])).toEqual([
      ['fedcba9876543210', 1, 3, 'version'],
      ['fedcba9876543210', 4, 5, 'version'],
    ])
})

test('after `await ready` every later message is delivered or reported, whoever sends it', async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const sender = openBus(redis.url, namespace, 'sender')
  await sender.subscribe('x', () => {}).ready
  const rounds = long(100, 1_000)
  let seen = 0
  for (let round = 0; round < rounds; round++) {
    const bus = openBus(redis.url, namespace, `${round % 2 ? 'late' : 'sender'} ${round % 2 ? round : ''}`)
    let heard = false
    let gap = false
    bus.on('gap', () => {
      gap = true
    })
    await bus.subscribe('news', (payload) => {
      heard ||= payload === round
    }).ready
    sender.broadcast('news', round)
    await until(() => heard || gap, { what: `message ${round}`, every: 1 })
    if (heard) seen++
    await bus.close()
  }
  expect(seen).toBe(rounds)
})

test('handlers that throw, or never end, keep no message from anybody', async () => {
  const redis = sharedRedis()
  const namespace = testNamespace()
  const family = await meet([openBus(redis.url, namespace, 'a'), openBus(redis.url, namespace, 'b')])
  const failures: unknown[] = []
  for (const { bus } of family.senders) {
    bus.on('handler-error', (error) => failures.push(error))
    bus.subscribe('news', () => {
      throw new Error('as planned')
    })
    bus.subscribe('news', () => new Promise(() => {}))
  }
  for (const sender of family.senders) send(sender, 50)
  expect(await settle(family)).toBe(0)
  await until(() => failures.length === 200, { what: 'every failure' })
})

test('the 60 s of an outage: this machine hears itself at once, the others learn what they have missed', {
  timeout: 120_000,
}, async () => {
  const redis = await startRedis()
  const namespace = testNamespace()
  const family = await meet(['a', 'a', 'b'].map((machine) => openBus(redis.url, namespace, machine)))
  const [sender] = family.senders as [Sender]
  const neighbour = family.senders[1]!.bus
  const events: string[] = []
  for (const event of ['degraded', 'restored'] as const) neighbour.on(event, () => events.push(event))
  const waits: number[] = []
  let heard: () => void = () => {}
  neighbour.subscribe('probe', () => heard())
  await redis.kill()
  const end = performance.now() + long(3_000, 60_000)
  while (performance.now() < end) {
    const startedAt = clock()
    const arrived = new Promise<void>((resolve) => {
      heard = resolve
    })
    sender.bus.broadcast('probe')
    sender.sent++
    await arrived
    waits.push(clock() - startedAt)
    send(sender, 20)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  await redis.restart()
  await settle(family)
  waits.sort((a, b) => a - b)
  console.log(
    `outage: ${waits.length} local deliveries, median ${waits[waits.length >> 1]!.toFixed(2)} ms, longest ${waits.at(-1)!.toFixed(1)} ms`,
  )
  expect(waits[Math.floor(waits.length * 0.99)]).toBeLessThan(50)
  await until(() => events.length === 2, { what: 'the bus to be restored' })
  expect(events).toEqual(['degraded', 'restored'])
})

test('an event, and no first one: restored follows degraded, whatever the start was like', async () => {
  const bus = openBus(sharedRedis().url, testNamespace(), 'a')
  const events: string[] = []
  for (const event of ['degraded', 'restored'] as const) bus.on(event, () => events.push(event))
  await bus.subscribe('news', () => {}).ready
  await nextTurn()
  expect(events).toEqual([])
  onTestFinished(() => void events.splice(0))
})
