import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import type { Redis } from 'ioredis'
import { expect, inject } from 'vitest'
import { type ChosenRedis, connectTo } from './choose-redis.ts'
import { track } from './cleanup.ts'
import { announceSeed, seed } from './random.ts'
import { type ClientOptions, type PrivateRedis, type RedisServerOptions, spawnRedis } from './redis-server.ts'

export { type RedisCluster, type RedisClusterOptions, startRedisCluster } from './redis-cluster.ts'
export { type SentinelOptions, type SentinelSetup, startSentinel } from './redis-sentinel.ts'
export {
  type ClientOptions,
  type PrivateRedis,
  type RedisServerOptions,
  redisBinary,
} from './redis-server.ts'

/** A Redis of the test's own, for faults; it is stopped when the test (or else the file) ends. */
export async function startRedis(options: RedisServerOptions = {}): Promise<PrivateRedis> {
  return track(await spawnRedis(options))
}

/** The Redis all test files of this run share. Never FLUSHALL it: with kind 'url' it is somebody's own. */
export function sharedRedis(): ChosenRedis {
  return inject('redis')
}

/** A connection to the shared Redis, closed when the test (or else the file) ends. */
export function sharedRedisClient(options: ClientOptions = {}): Redis {
  const client = connectTo(sharedRedis().url, options)
  client.on('error', () => {}) // commands reject; an event nobody listens to would only be printed
  track({ [Symbol.asyncDispose]: async () => client.disconnect() })
  return client
}

let namespaces = 0

/**
 * A prefix no other test file or run uses, the same again under the same seed. Its keys in the shared Redis are
 * deleted when the test (or else the file) ends.
 */
export function testNamespace(): string {
  announceSeed()
  const file = expect.getState().testPath ?? ''
  const hash = createHash('sha256').update(`${file}\n${seed}\n${namespaces++}`).digest('hex')
  const namespace = `${basename(file).split('.')[0]}-${hash.slice(0, 12)}`
  track({ [Symbol.asyncDispose]: () => deleteKeys(namespace) })
  return namespace
}

async function deleteKeys(namespace: string): Promise<void> {
  const shared: ChosenRedis | undefined = inject('redis')
  if (!shared) return // a unit test only wants a name
  const client = connectTo(shared.url)
  try {
    // The namespace may stand in a hash tag or behind another prefix.
    for await (const keys of client.scanStream({ match: `*${namespace}*`, count: 1000 })) {
      if (keys.length > 0) await client.unlink(keys)
    }
  } finally {
    client.disconnect()
  }
}
