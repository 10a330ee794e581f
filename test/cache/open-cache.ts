import { createBus } from '../../src/bus/index.ts'
import { type Cache, type CacheOptions, createCache } from '../../src/cache/index.ts'
import type { SharedContext } from '../../src/context.ts'
import { createClosing } from '../../src/core/closing.ts'
import { createKeys } from '../../src/core/keys.ts'
import { createReadAhead } from '../../src/core/read-ahead.ts'
import { createRedisConnection } from '../../src/redis/client.ts'
import { createRedisSource, type RedisSource } from '../../src/redis/source.ts'
import { track } from '../helpers/cleanup.ts'
import { until } from '../helpers/until.ts'

let sources = 0

function sourceOf(url: string): RedisSource {
  const id = `test-${sources++}` // never the same, so that every context is a process with a hub of its own
  return createRedisSource(url, { name: 'test', env: {}, cwd: '/', id })
}

export interface TestContext extends SharedContext, AsyncDisposable {}

/** What a process has; its hub may reach Redis another way than its commands do. */
export function openContext(url: string, namespace: string, hubUrl: string = url): TestContext {
  const keys = createKeys(namespace)
  const closing = createClosing()
  const source = sourceOf(url)
  const redis = createRedisConnection(source, 'as-one:state')
  const bus = createBus({ keys, source: sourceOf(hubUrl) })
  closing.add(() => redis.close())
  closing.add(() => bus.close())
  return track({
    redis,
    connect: () => redis,
    bus,
    invalidations: bus.invalidations,
    keys,
    closing,
    readAhead: createReadAhead(),
    inert: () => false,
    [Symbol.asyncDispose]: () => closing.close(),
  })
}

/**
 * Redis may be as late as a busy machine makes it: a call that gives up after the default of half a second would be a
 * miss, or a rejected write, where something else is tested. Tests of an absence state their own timeout.
 */
export function openCache(
  url: string,
  namespace: string,
  options: CacheOptions = {},
  hubUrl?: string,
): Cache {
  return createCache(openContext(url, namespace, hubUrl), { timeout: '5s', ...options })
}

/** Uses the cache until its copies count. */
export async function untilOn(...caches: readonly Cache[]): Promise<void> {
  for (const cache of caches) {
    await until(
      async () => {
        await cache.get('until-on')
        return cache.stats().l1.on
      },
      { what: 'the near cache to be on', deadline: 15_000 },
    )
  }
}

/** Writes until it has been confirmed: a first connection may take longer than a write waits. */
export async function untilSet(cache: Cache, key: string, value: unknown): Promise<void> {
  const set = (): Promise<true> => cache.set(key, value).then(() => true)
  await until(set, { what: `a write of ${key}`, every: 5 })
}

/** Reads until this process has a copy. */
export async function untilCopied(cache: Cache, key: string): Promise<void> {
  await until(
    async () => {
      await cache.get(key)
      return cache.peek(key) !== undefined
    },
    { what: `a copy of ${key}`, every: 5 },
  )
}
