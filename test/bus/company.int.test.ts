import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import type { Bus } from '../../src/bus/index.ts'
import { isLong, long } from '../helpers/long.ts'
import { sharedRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { listen, openBus } from '../suites/bus-suite.ts'
import { expectCovered, keepAccount } from './ledger.ts'

const clock = runningClock()

/** PUBLISH commands that this Redis has run, of which heartbeats are one in 5 s. */
async function publishes(redis: Awaited<ReturnType<typeof startRedis>>): Promise<number> {
  const info = String(await redis.client().call('INFO', 'commandstats'))
  return Number(/^cmdstat_publish:calls=(\d+)/m.exec(info)?.[1] ?? 0)
}

/** One message after the other until the test ends; those with a receipt go to Redis even if nobody listens there. */
function keepSending(bus: Bus): { readonly sent: number; stop(): number } {
  let sent = 0
  let isOn = true
  const run = async (): Promise<void> => {
    for (; isOn; await nextTurn()) {
      if (sent % 7 === 0) void bus.publish('news', sent)
      else bus.broadcast('news', sent)
      sent += 1
    }
  }
  void run()
  const stop = (): number => {
    isOn = false
    return sent
  }
  onTestFinished(() => void stop())
  return {
    get sent() {
      return sent
    },
    stop,
  }
}

test('nothing goes to Redis while nobody else is there, except for a receipt', async () => {
  const redis = await startRedis()
  const bus = openBus(redis.url, testNamespace(), 'a')
  await listen(bus, 'news')
  const before = await publishes(redis)
  for (let turn = 0; turn < 500; turn++) {
    bus.broadcast('news', turn)
    await nextTurn()
  }
  const after = await publishes(redis)
  expect(after - before).toBeLessThanOrEqual(2)
  expect(await bus.publish('news', 'last')).toEqual({ local: 0, remote: 'sent' })
  expect(await publishes(redis)).toBeGreaterThan(after)
})

test('whoever is ready hears all that one who was alone says from then on', {
  timeout: 120_000,
}, async () => {
  for (let round = 0; round < long(20, 200); round++) {
    const namespace = testNamespace()
    const alone = openBus(sharedRedis().url, namespace, 'a')
    await listen(alone, 'x')
    const sender = keepSending(alone)
    await until(() => sender.sent > 20, { what: 'it to be talking to itself', every: 1 })
    const newcomer = openBus(sharedRedis().url, namespace, 'b')
    const account = keepAccount(newcomer)
    await newcomer.subscribe('x', () => {}).ready
    const sentBefore = sender.sent
    await until(() => sender.sent > sentBefore + 20, { what: 'more messages', every: 1 })
    const last = sender.stop()
    await until(() => account.received[alone.id]?.at(-1)?.[1] === last, { what: 'the last message' })
    expect(account.gaps, `round ${round}`).toEqual([])
    expectCovered(account, alone.id, sentBefore + 1, last)
    await Promise.all([alone.close(), newcomer.close()])
  }
})

test('a newcomer does not wait for a hub that is cut off, and is told what that has not sent', {
  timeout: 40_000,
}, async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const namespace = testNamespace()
  const alone = openBus(proxy.url(), namespace, 'a')
  await listen(alone, 'x')
  await alone.publish('news', 'first') // what it had to say of itself has been said
  proxy.freeze()
  const startedAt = clock()
  const newcomer = openBus(redis.url, namespace, 'b')
  const account = keepAccount(newcomer)
  await newcomer.subscribe('x', () => {}).ready
  expect(clock() - startedAt).toBeLessThan(2_000)
  for (let turn = 0; turn < 100; turn++) {
    alone.broadcast('news', turn)
    await nextTurn()
  }
  proxy.reset()
  proxy.unfreeze()
  await until(() => account.gaps.length > 0 || account.received[alone.id]?.[0]?.[0] === 1, {
    what: 'the first messages',
    deadline: 15_000,
  })
  const { remote } = await alone.publish('news', 'last')
  expect(['sent', 'queued']).toContain(remote)
  await until(() => account.received[alone.id]?.at(-1)?.[1] === 102, { what: 'the last message' })
  expect(expectCovered(account, alone.id, 1, 102)).toBe(101)
})

test('one that may not publish cannot make itself known: it is noticed within a heartbeat, and nothing is silent', {
  timeout: 30_000,
}, async () => {
  const redis = await startRedis()
  await redis.client().call('ACL', 'SETUSER', 'reader', 'on', '>pw', '~*', '&*', '+@all', '-publish')
  const namespace = testNamespace()
  const alone = openBus(redis.url, namespace, 'a')
  await listen(alone, 'x')
  await alone.publish('news', 1) // what it had to say of itself has been said
  const mute = openBus(redis.url.replace('://', '://reader:pw@'), namespace, 'b')
  const account = keepAccount(mute)
  await mute.subscribe('x', () => {}).ready
  let sent = 1
  await until(
    () => {
      alone.broadcast('news', ++sent)
      return account.received[alone.id] !== undefined
    },
    { what: 'a message to arrive', deadline: 8_000, every: 100 },
  )
  alone.broadcast('news', ++sent)
  await until(() => account.received[alone.id]!.at(-1)![1] === sent, { what: 'all that follow' })
  expect(expectCovered(account, alone.id, 1, sent)).toBeGreaterThan(0)
})

test('two that ask at once become ready, and hear each other', async () => {
  for (let round = 0; round < long(10, 100); round++) {
    const namespace = testNamespace()
    const buses = ['a', 'b', 'c'].map((machine) => openBus(sharedRedis().url, namespace, machine))
    const accounts = buses.map(keepAccount)
    const startedAt = clock()
    await Promise.all(buses.map((bus) => bus.subscribe('x', () => {}).ready))
    expect(clock() - startedAt).toBeLessThan(900)
    for (const bus of buses) bus.broadcast('news', 1)
    await until(
      () => buses.every(({ id }, at) => accounts.every(({ received }, ear) => ear === at || received[id])),
      { what: 'all to hear all', every: 1 },
    )
    await Promise.all(buses.map((bus) => bus.close()))
  }
})

// A lease of 15 s has to end.
test.runIf(isLong)(
  'forgotten as silent, it is told on its return what was not sent meanwhile',
  {
    timeout: 60_000,
  },
  async () => {
    const redis = await startRedis()
    const proxy = await startProxy({ target: { port: redis.port } })
    const namespace = testNamespace()
    const [stays, leaves] = [openBus(redis.url, namespace, 'a'), openBus(proxy.url(), namespace, 'b')]
    const account = keepAccount(leaves)
    await Promise.all([stays, leaves].map((bus) => bus.subscribe('x', () => {}).ready))
    stays.broadcast('news', 1)
    await until(() => account.received[stays.id] !== undefined, { what: 'the first message' })
    await proxy.refuse(true)
    proxy.reset()
    let sent = 1
    await until(
      async () => {
        const before = await publishes(redis)
        for (let at = 0; at < 20; at++, await nextTurn()) stays.broadcast('news', ++sent)
        return (await publishes(redis)) === before
      },
      { what: 'it to be alone', deadline: 25_000, every: 200 },
    )
    await proxy.refuse(false)
    await until(() => account.gaps.length > 0, { what: 'the gap', deadline: 10_000 })
    stays.broadcast('news', ++sent)
    await until(() => account.received[stays.id]!.at(-1)![1] === sent, { what: 'what follows' })
    expect(account.gaps).toHaveLength(1)
    expect(expectCovered(account, stays.id, 1, sent)).toBe(sent - 2)
  },
)
