import { Cluster } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { createRedisConnection, type RedisClient } from '../../src/redis/client.ts'
import { defineScript, runScript } from '../../src/redis/scripts.ts'
import { createRedisSource } from '../../src/redis/source.ts'
import type { RedisOption } from '../../src/redis/target.ts'
import { startRedis, startRedisCluster } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'

const APPEND = defineScript(
  1,
  `-- KEYS[1] list. ARGV[1] item. Result: length.
return redis.call('RPUSH', KEYS[1], ARGV[1])`,
)
const TYPES = defineScript(
  0,
  `-- ARGV[1] any bytes. Result: they, nil, a number, a list.
return { ARGV[1], false, 7, { 'a' } }`,
)

async function connect(redis: RedisOption): Promise<RedisClient> {
  const connection = createRedisConnection(
    createRedisSource(redis, { name: 'test', env: {}, cwd: '/' }),
    'as-one:test',
  )
  onTestFinished(() => connection.close())
  return connection.ready()
}

test('runs by digest, by text when the server has forgotten it, once each time', async () => {
  const redis = await startRedis()
  const client = await connect(redis.url)
  expect(await runScript(client, APPEND, ['list', 'a'])).toBe(1)
  await redis.client().script('FLUSH')
  // All of one tick find it missing.
  expect(await Promise.all(['b', 'c', 'd'].map((item) => runScript(client, APPEND, ['list', item])))).toEqual(
    [2, 3, 4],
  )
  const before = await redis.client().info('commandstats')
  expect(await runScript(client, APPEND, ['list', 'e'])).toBe(5)
  const evals = (info: string): string | undefined => /cmdstat_eval:calls=(\d+)/.exec(info)?.[1]
  expect(evals(await redis.client().info('commandstats'))).toBe(evals(before))
  expect(await client.lrange('list', 0, -1)).toEqual(['a', 'b', 'c', 'd', 'e'])
})

test('replies and arguments of every type', async () => {
  const redis = await startRedis()
  const client = await connect(redis.url)
  expect(await runScript(client, TYPES, [Buffer.from('ä')])).toEqual(['ä', null, 7, ['a']])
  expect(await runScript(client, TYPES, [5])).toEqual(['5', null, 7, ['a']])
})

test("the script's own errors are passed on and not retried", async () => {
  const redis = await startRedis()
  const client = await connect(redis.url)
  await client.set('list', 'no list')
  await expect(runScript(client, APPEND, ['list', 'a'])).rejects.toThrow(/WRONGTYPE/)
  const fails = defineScript(1, `redis.call('INCR', KEYS[1]) return redis.error_reply('NOSUCHTHING')`)
  await expect(runScript(client, fails, ['count'])).rejects.toThrow(/NOSUCHTHING/)
  expect(await client.get('count')).toBe('1')
})

test('on Cluster every master learns it, and again after SCRIPT FLUSH', async () => {
  const cluster = await startRedisCluster()
  const client = await connect(cluster.url)
  const keys = Array.from({ length: 30 }, (_, at) => `list:${at}`)
  const owners = await Promise.all(keys.map((key) => cluster.ownerOf(key)))
  expect(new Set(owners).size).toBe(3)
  for (const length of [1, 2]) {
    expect(await Promise.all(keys.map((key) => runScript(client, APPEND, [key, 'x'])))).toEqual(
      keys.map(() => length),
    )
    for (const node of cluster.nodes) await node.client().script('FLUSH')
  }
})

test('on Cluster a script whose reply was lost is not run again', async () => {
  const cluster = await startRedisCluster()
  const proxies = await Promise.all(cluster.nodes.map(({ port }) => startProxy({ target: { port } })))
  const natMap = Object.fromEntries(
    cluster.nodes.map(({ port }, at) => [
      `127.0.0.1:${port}`,
      { host: '127.0.0.1', port: proxies[at]!.port },
    ]),
  )
  const own = new Cluster([{ host: '127.0.0.1', port: proxies[0]!.port }], { lazyConnect: true, natMap })
  onTestFinished(() => own.disconnect())
  const client = await connect(own)
  const owner = await cluster.ownerOf('list')
  const proxy = proxies[cluster.nodes.indexOf(owner)]!
  const items = (): Promise<string[]> => owner.client().lrange('list', 0, -1)

  expect(await runScript(client, APPEND, ['list', 'a'])).toBe(1)
  proxy.freeze('down')
  const running = runScript(client, APPEND, ['list', 'b']).catch((error: unknown) => error)
  await until(async () => (await items()).length === 2, { what: 'the script to run' })
  proxy.reset()
  proxy.unfreeze() // a new connection shall work, so that a second run would be seen
  expect(String(await running)).toMatch(/closed before the reply/)
  await until(() => runScript(client, APPEND, ['list', 'c']), { what: 'the client to recover' })
  expect((await items()).filter((item) => item !== 'c')).toEqual(['a', 'b'])
})
