import { existsSync } from 'node:fs'
import { expect, test } from 'vitest'
import { tempDir } from './cleanup.ts'
import { isAlive, until } from './fork.ts'
import {
  sharedRedis,
  sharedRedisClient,
  startRedis,
  startRedisCluster,
  startSentinel,
  testNamespace,
} from './redis.ts'

let lastNamespace = ''

test('the shared Redis answers, and a namespace leaves nothing in it', async () => {
  expect(sharedRedis().kind).toMatch(/^(url|docker|binary)$/)
  const client = sharedRedisClient()
  expect(await client.ping()).toBe('PONG')
  expect(testNamespace()).not.toBe(testNamespace())
  lastNamespace = testNamespace()
  await client.set(`{${lastNamespace}}:key`, '1')
})

test('… as the next test sees', async () => {
  expect(await sharedRedisClient().keys(`*${lastNamespace}*`)).toEqual([])
})

test('kill and restart: same port, data only if persisted', async () => {
  const [kept, lost] = await Promise.all([startRedis({ persist: true }), startRedis()])
  for (const redis of [kept, lost]) {
    const { port, pid } = redis
    const client = redis.client()
    await client.set('key', 'value')
    await redis.kill()
    expect(isAlive(pid)).toBe(false)
    expect(redis.running).toBe(false)
    await redis.restart()
    expect(redis.port).toBe(port)
    expect(redis.pid).not.toBe(pid)
    expect(await client.get('key')).toBe(redis === kept ? 'value' : null)
  }
})

test('pause is silence, resume goes on where it was', async () => {
  const redis = await startRedis()
  const client = redis.client()
  await client.ping()
  await redis.pause()
  let answered = false
  const ping = client.ping().finally(() => {
    answered = true
  })
  await expect(redis.client({ commandTimeout: 100 }).ping()).rejects.toThrow('timed out')
  expect(answered).toBe(false)
  await redis.resume()
  expect(await ping).toBe('PONG')
})

test('stop ends even a frozen server and removes its directory', async () => {
  const redis = await startRedis({ socket: true })
  expect(redis.url).toBe(`unix://${redis.socketPath}`)
  expect(await redis.client().ping()).toBe('PONG')
  const { pid } = redis
  await redis.pause()
  await redis.stop()
  expect(isAlive(pid)).toBe(false)
  expect(existsSync(redis.dir)).toBe(false)
  await redis.stop() // twice does no harm
})

test('a directory that was given stays, and a second server finds the data', async () => {
  const dir = tempDir()
  const first = await startRedis({ dir, persist: true })
  await first.client().set('key', 'value')
  await first.stop()
  const second = await startRedis({ dir, persist: true })
  expect(await second.client().get('key')).toBe('value')
})

test('a server that cannot start says why', async () => {
  const running = await startRedis()
  await expect(startRedis({ port: running.port })).rejects.toThrow(/already in use/)
  await expect(startRedis({ args: ['--no-such-option', '1'] })).rejects.toThrow(/exited: .*no-such-option/)
  await expect(startRedis({ version: '99' })).rejects.toThrow('AS_ONE_REDIS_SERVER_99 is not set')
})

test('sentinel: a planned failover, then a crash', async () => {
  const sentinel = await startSentinel()
  expect(sentinel.url).toMatch(/^redis\+sentinel:\/\/(127\.0\.0\.1:\d+,?){3}\/mymaster$/)
  const client = sentinel.client()
  await client.set('key', 'value')
  const first = await sentinel.master()
  const second = await sentinel.failover()
  expect(second).not.toBe(first)
  await until(() => client.set('key', 'later'), { what: 'the client to follow' })
  await second.kill()
  expect(await sentinel.master()).toBe(first)
})

test('cluster: three masters, sharded pub/sub, slots that move under a client', async () => {
  const cluster = await startRedisCluster()
  expect(cluster.url).toMatch(/^redis\+cluster:\/\/(127\.0\.0\.1:\d+,?){3}$/)
  const client = cluster.client({ shardedSubscribers: true })
  const keys = Array.from({ length: 60 }, (_, at) => `key:${at}`)
  for (const key of keys) await client.set(key, key)
  const owners = new Set(await Promise.all(keys.map((key) => cluster.ownerOf(key))))
  expect(owners.size).toBe(3)

  const heard: string[] = []
  client.on('smessage', (channel: string) => heard.push(channel))
  for (const key of keys.slice(0, 6)) await client.ssubscribe(key)
  for (const key of keys.slice(0, 6)) await client.spublish(key, 'hello')
  await until(() => heard.length === 6, { what: 'all sharded messages' })

  const added = await cluster.addMaster()
  const from = await cluster.ownerOf(keys[0]!)
  const slot = await client.cluster('KEYSLOT', keys[0]!)
  expect(await cluster.moveSlots(from, added, [slot])).toEqual([slot])
  expect(await cluster.moveSlots(from, added, 50)).toHaveLength(50)
  expect(await cluster.ownerOf(keys[0]!)).toBe(added)
  for (const key of keys) expect(await client.get(key)).toBe(key)
})

test('cluster: a replica takes over from a master that dies', async () => {
  const cluster = await startRedisCluster({ replicas: 1 })
  const master = await cluster.ownerOf('key')
  const client = master.client() // WAIT counts for the connection that wrote
  await client.set('key', 'value')
  expect(await client.wait(1, 5_000)).toBe(1)
  await master.kill()
  const heir = await until(async () => (await cluster.ownerOf('key')) !== master && cluster.ownerOf('key'), {
    what: 'the replica to be promoted',
    deadline: 60_000,
  })
  await cluster.settled()
  expect(await heir.client().get('key')).toBe('value')
})
