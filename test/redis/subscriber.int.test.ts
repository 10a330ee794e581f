import { expect, onTestFinished, test } from 'vitest'
import { createRedisSource } from '../../src/redis/source.ts'
import { freePort } from '../helpers/ports.ts'
import { startRedis, startRedisCluster, startSentinel } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { listen } from './listen.ts'

test('hears every message in order, as bytes', async () => {
  const redis = await startRedis()
  const heard = listen(redis.url)
  expect(heard.subscriber.up).toBe(false)
  await heard.upAgain(1)
  const client = redis.client()
  const sent = Array.from({ length: 500 }, (_, at) => `${at}\u0000\u00ff`)
  for (const message of sent) void client.publish('channel', Buffer.from(message, 'latin1'))
  await client.publish('other', 'not for us')
  await until(() => heard.messages.length >= sent.length, { what: 'all messages' })
  expect(heard.messages).toEqual(sent)
})

test('comes back after CLIENT KILL, and says so each time', async () => {
  const redis = await startRedis()
  const heard = listen(redis.url)
  const client = redis.client()
  for (let times = 1; times <= 3; times++) {
    await heard.upAgain(times)
    await client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => heard.states.length >= 2 * times, { what: 'the loss to be noticed' })
  }
  await heard.upAgain(4)
  expect(heard.states).toEqual([
    'up',
    'connection closed',
    'up',
    'connection closed',
    'up',
    'connection closed',
    'up',
  ])
  await client.publish('channel', 'still there')
  await until(() => heard.messages.length === 1, { what: 'the message' })
  expect(await client.pubsub('NUMSUB', 'channel')).toEqual(['channel', 1]) // and only once
})

test('survives a restart of Redis, and a Redis that is not there yet', async () => {
  const port = await freePort()
  const heard = listen(`redis://127.0.0.1:${port}`)
  const redis = await startRedis({ port })
  await heard.upAgain(1)
  await redis.kill()
  await until(() => !heard.subscriber.up, { what: 'the loss to be noticed' })
  await redis.restart()
  await heard.upAgain(2)
  await redis.client().publish('channel', 'after')
  await until(() => heard.messages.length === 1, { what: 'the message' })
})

test('close() while connecting, while up, and twice: nothing is left and nothing is said', async () => {
  const redis = await startRedis()
  const client = redis.client()
  const early = listen(redis.url)
  early.subscriber.close()
  const nowhere = listen(`redis://127.0.0.1:${await freePort()}`)
  const late = listen(redis.url)
  await late.upAgain(1)
  for (const { subscriber } of [late, late, nowhere]) subscriber.close()
  await until(async () => (await client.pubsub('NUMSUB', 'channel'))[1] === 0, {
    what: 'the subscription to end',
  })
  expect(late.states).toEqual(['up'])
  expect(early.states).toEqual([])
  await until(async () => !((await client.client('LIST')) as string).includes('as-one:test-subscriber'), {
    what: 'the connections to be gone',
  })
})

test('a source that cannot say where to go is asked again', async () => {
  const redis = await startRedis()
  const real = createRedisSource(redis.url, { name: 'test', env: {}, cwd: '/' })
  let attempts = 0
  const heard = listen({
    ...real,
    target: () => (++attempts < 3 ? Promise.reject(new Error('not yet')) : real.target()),
  })
  await heard.upAgain(1)
  expect(attempts).toBe(3)
})

test('Cluster: goes to the owner of the channel, whichever node it asks', async () => {
  const cluster = await startRedisCluster()
  const urls = cluster.nodes.map(({ port }) => `redis+cluster://127.0.0.1:${port}`)
  const all = urls.map((url) => listen(url, 'as-one:b:'))
  await Promise.all(all.map((heard) => heard.upAgain(1)))
  const owner = await cluster.ownerOf('as-one:b:')
  expect(await owner.client().call('PUBSUB', 'SHARDNUMSUB', 'as-one:b:')).toEqual(['as-one:b:', 3])
  await cluster.client().spublish('as-one:b:', 'hello')
  await until(() => all.every(({ messages }) => messages.length === 1), { what: 'all to hear it' })
})

test('Cluster: a natMap leads to nodes whose own addresses do not', async () => {
  const cluster = await startRedisCluster()
  const proxies = await Promise.all(cluster.nodes.map(({ port }) => startProxy({ target: { port } })))
  const natMap = Object.fromEntries(
    cluster.nodes.map(({ port }, at) => [
      `127.0.0.1:${port}`,
      { host: '127.0.0.1', port: proxies[at]!.port },
    ]),
  )
  const { Cluster } = await import('ioredis')
  const client = new Cluster([{ host: '127.0.0.1', port: proxies[0]!.port }], { lazyConnect: true, natMap })
  onTestFinished(() => client.disconnect())
  const heard = listen(client, 'as-one:b:')
  await heard.upAgain(1)
  await cluster.client().spublish('as-one:b:', 'hello')
  await until(() => heard.messages.length === 1, { what: 'the message' })
  const owner = cluster.nodes.indexOf(await cluster.ownerOf('as-one:b:'))
  expect(proxies[owner]!.connections).toBeGreaterThan(0)
})

test('Cluster: follows the slot to another master, and to the replica of one that dies', async () => {
  const cluster = await startRedisCluster({ replicas: 1 })
  const channel = 'as-one:b:'
  const client = cluster.client()
  const slot = (await client.cluster('KEYSLOT', channel)) as number
  const heard = listen(`redis+cluster://127.0.0.1:${cluster.nodes[0]!.port}`, channel)
  await heard.upAgain(1)
  const first = await cluster.ownerOf(channel)
  const second = cluster.nodes.slice(0, 3).find((node) => node !== first)!
  await cluster.moveSlots(first, second, [slot])
  await heard.upAgain(2)
  expect(heard.states[1]).toContain('moved')
  await client.spublish(channel, 'moved')
  await until(() => heard.messages.includes('moved'), { what: 'the message after the move' })

  await second.kill()
  await heard.upAgain(3, 60_000)
  await until(
    async () => (await client.spublish(channel, 'failed over')) && heard.messages.includes('failed over'),
    {
      what: 'the message after the failover',
    },
  )
  expect((await cluster.ownerOf(channel)).port).not.toBe(second.port)
}, 150_000)

test('Sentinel: follows the master', async () => {
  const sentinel = await startSentinel()
  const heard = listen(sentinel.url)
  await heard.upAgain(1)
  const master = await sentinel.failover()
  await heard.upAgain(2)
  await until(async () => ((await master.client().pubsub('NUMSUB', 'channel'))[1] as number) > 0, {
    what: 'the subscription at the new master',
  })
  await master.client().publish('channel', 'hello')
  await until(() => heard.messages.length === 1, { what: 'the message' })
}, 150_000)
