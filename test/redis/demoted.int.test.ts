/**
 * A failover as managed services do it: the name leads to the promoted replica, the old master becomes its replica and
 * keeps the connections it has. Everything that has been opened must find its way, or writes are refused for ever.
 */
import { expect, onTestFinished, test } from 'vitest'
import { createShared, type Shared } from '../../src/shared.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { startProxy, type TcpProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'

interface Failover {
  readonly address: TcpProxy
  readonly promoted: PrivateRedis
  happen(): Promise<void>
}

async function replicated(): Promise<Failover> {
  const old = await startRedis()
  const promoted = await startRedis()
  for (const server of [old, promoted]) await server.client().config('SET', 'repl-diskless-sync-delay', '0')
  const address = await startProxy({ target: { port: old.port } })
  await promoted.client().replicaof('127.0.0.1', old.port)
  const inStep = async (): Promise<boolean> => /master_link_status:up/.test(await promoted.client().info())
  await until(inStep, { what: 'the replica to be in step' })
  return {
    address,
    promoted,
    async happen() {
      // Replication is asynchronous: what has been acknowledged before is to be there after.
      const offset = async (server: PrivateRedis, field: string): Promise<number> =>
        Number(new RegExp(`^${field}:(\\d+)`, 'm').exec(await server.client().info('replication'))?.[1])
      const reached = await offset(old, 'master_repl_offset')
      await until(async () => (await offset(promoted, 'slave_repl_offset')) >= reached, {
        what: 'the replica to have all that was written',
      })
      await promoted.client().replicaof('NO', 'ONE')
      address.retarget({ port: promoted.port })
      await old.client().replicaof('127.0.0.1', promoted.port)
    },
  }
}

function open(redis: string, namespace: string): Shared {
  const shared = createShared({ redis, namespace })
  onTestFinished(() => shared.close())
  return shared
}

test('what writes is refused once, then writes to the new master', async () => {
  const failover = await replicated()
  const shared = open(failover.address.url(), testNamespace())
  const cache = shared.cache()
  const limiter = shared.rateLimiter({ limit: 100, per: '1h', onUnavailable: 'deny' })
  await cache.set('before', 1)
  const consumed = async () => (await limiter.consume('visitor')).source === 'redis'
  await until(consumed, { what: 'the limiter to be answered by Redis' })

  await failover.happen()
  await expect(cache.set('key', 1)).rejects.toMatchObject({ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' })
  await until(
    () =>
      cache.set('key', 2).then(
        () => true,
        () => false,
      ),
    { what: 'a write to be taken' },
  )
  expect(await cache.get('key')).toBe(2)
  expect(await cache.get('before')).toBe(1)
  await until(consumed, { what: 'the limiter to be answered by the new master' })
})

test('messages reach the other machines again, though a replica takes every PUBLISH', async () => {
  const failover = await replicated()
  const namespace = testNamespace()
  const stranded = open(failover.address.url(), namespace).bus
  const heard: unknown[] = []
  stranded.subscribe('here', (payload) => heard.push(payload))
  await stranded.subscribe('here', () => {}).ready

  await failover.happen()
  const other = open(failover.promoted.url, namespace).bus // on the new master from the beginning
  const answers: unknown[] = []
  await other.subscribe('there', (payload) => answers.push(payload)).ready
  await until(
    () => {
      stranded.broadcast('there', 'word')
      return answers.length > 0
    },
    { what: 'a message from the stranded machine', deadline: 20_000 },
  )
  await until(
    () => {
      other.broadcast('here', 'word')
      return heard.length > 0
    },
    { what: 'a message to the stranded machine', deadline: 20_000 },
  )
})
