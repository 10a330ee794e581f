import type { SharedContext } from '../context.ts'
import { withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import type { RedisClient } from '../redis/client.ts'
import { decodeEntry, decodeValue, encodeEntry, encodeValue, type Found, OTHER_GENERATION } from './entry.ts'
import { FarCache, isUnavailable, readEntry } from './far-cache.ts'
import { Freshness } from './freshness.ts'
import { Generation } from './generation.ts'
import { NearCache } from './near-cache.ts'
import {
  type CacheOptions,
  checkKey,
  type LoadOptions,
  resolveCacheOptions,
  resolveLoadTtl,
  resolveSetTtl,
  type SetOptions,
} from './options.ts'
import { publishUnavailable, SingleFlight } from './single-flight.ts'
import { type CacheStats, createCounters } from './stats.ts'

/**
 * A cache that all workers share: copies in each process in front of Redis. Values are JSON and deeply frozen; null,
 * 0, '' and false are values, undefined is none.
 */
export interface Cache {
  /**
   * The value, undefined when there is none or Redis cannot be asked.
   *
   * @throws SharedStateError `ERR_AS_ONE_CACHE` for a key that cannot be one, `ERR_AS_ONE_CLOSED`
   */
  get<Value = unknown>(key: string): Promise<Value | undefined>
  /** The value if this process has a copy that may be used; asks nobody. */
  peek<Value = unknown>(key: string): Value | undefined
  /** Whether `get` would find a value. */
  has(key: string): Promise<boolean>
  /**
   * The value; when there is none, `loader` makes it, once for all callers of all processes. What it throws is passed
   * on and not stored; undefined is passed on and not stored.
   *
   * @throws SharedStateError `ERR_AS_ONE_CACHE` for a key or value that cannot be stored, `ERR_AS_ONE_OPTIONS`,
   * `ERR_AS_ONE_ABORTED`, `ERR_AS_ONE_CLOSED`
   * @example const product = await cache.getOrSet(`product:${id}`, () => db.product(id), { ttl: '1m' })
   */
  getOrSet<Value>(key: string, loader: () => Value | Promise<Value>, options?: LoadOptions): Promise<Value>
  /**
   * Resolves when Redis has the value; every process drops its copy at the latest `maxStaleness` later. When it
   * rejects, the value may or may not have been written.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE`, `ERR_AS_ONE_CACHE`, `ERR_AS_ONE_OPTIONS`, `ERR_AS_ONE_CLOSED`
   */
  set(key: string, value: unknown, options?: SetOptions): Promise<void>
  /** Resolves when Redis has deleted it; otherwise as `set`. */
  delete(key: string): Promise<void>
  /** Deletes all entries of this cache, in one step however many there are; otherwise as `set`. */
  clear(): Promise<void>
  stats(): CacheStats
  /** Lets go of the copies. Idempotent. */
  close(): Promise<void>
}

/**
 * A cache on an explicit instance. Opens no connection; the first use does.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 */
export function createCache(ctx: SharedContext, given: CacheOptions = {}): Cache {
  const options = resolveCacheOptions(given)
  const { name, ttlMs, maxStalenessMs } = options
  const counters = createCounters()
  const fresh = new Freshness(maxStalenessMs, options.l1 ? 'not used yet' : 'switched off by l1: false')
  const near = new NearCache(fresh, options.l1)
  const far = new FarCache(ctx.redis, options.timeoutMs)
  const generation = new Generation(fresh)
  const flights = new SingleFlight({ options, near, far, fresh, generation, counters })
  const forget = ctx.closing.add(close)
  const namePrefix = `${name}:`
  let stopWatching: (() => void) | undefined
  let started = false
  let closed = false

  const keyOf = (key: string): string => ctx.keys.key('cache', namePrefix + checkKey(key))
  const generationKey = (): string => ctx.keys.key('cache', name)

  /** At the first use, since until then `runCluster` may yet say where Redis is. */
  function begin(): void {
    if (closed) throw new SharedStateError('ERR_AS_ONE_CLOSED', `the cache '${name}' has been closed`)
    if (started) return
    started = true
    if (!options.l1) return
    fresh.reason = 'waiting for the first proof of freshness'
    stopWatching = ctx.invalidations.watch({
      proofEveryMs: maxStalenessMs / 4,
      invalidated,
      proven(at) {
        if (!fresh.synced && channels.cache.hasSubscribers)
          channels.cache.publish({ event: 'l1-on', cache: name })
        fresh.proven(at)
      },
      lost(reason, refused) {
        const isNews = fresh.synced || fresh.reason !== reason
        fresh.lost(reason)
        generation.changed()
        near.clear()
        if (isNews && channels.cache.hasSubscribers)
          channels.cache.publish({ event: 'l1-off', cache: name, reason, refused })
      },
    })
  }

  function invalidated(keys: readonly string[] | null): void {
    if (keys === null) {
      allChanged()
      return
    }
    for (const key of keys) {
      if (key.startsWith(namePrefix)) {
        counters.invalidations += 1
        near.drop(key.slice(namePrefix.length))
      } else if (key === name) allChanged()
    }
  }

  function allChanged(): void {
    counters.invalidations += 1
    generation.changed()
    near.clear()
  }

  /** What L2 has, kept in L1. */
  async function read(key: string): Promise<Found | undefined> {
    const redisKey = keyOf(key)
    begin()
    const mark = near.begin(key)
    try {
      const reply = await far.read((client) => lookUp(client, redisKey))
      if (reply) {
        counters.l2Hits += 1
        near.fill(mark, reply.found, reply.ttlMs)
        return reply.found
      }
    } catch (error) {
      if (!isUnavailable(error)) throw error
      publishUnavailable('get', error)
    } finally {
      near.end(mark)
    }
    counters.misses += 1
    return undefined
  }

  async function lookUp(
    client: RedisClient,
    redisKey: string,
  ): Promise<{ found: Found; ttlMs: number } | undefined> {
    const known = generation.now()
    const asking = known === undefined ? generation.ask(client, generationKey()) : undefined
    const reading = readEntry(client, redisKey)
    const current = known ?? ((await Promise.all([asking, reading]))[0] as string)
    const reply = await reading
    if (!reply) return undefined
    const [entry, ttlMs] = reply
    let found = decodeEntry(entry, current)
    // Perhaps cleared, or perhaps it is we who have not heard of a clear yet.
    if (found === OTHER_GENERATION && known !== undefined)
      found = decodeEntry(entry, await generation.ask(client, generationKey()))
    return found === undefined || found === OTHER_GENERATION ? undefined : { found, ttlMs }
  }

  async function load(key: string, loader: () => unknown, callOptions?: LoadOptions): Promise<unknown> {
    const redisKey = keyOf(key)
    const loadTtlMs = resolveLoadTtl(callOptions, ttlMs)
    begin()
    const wait =
      loadTtlMs > 0
        ? flights.get({ key, redisKey, generationKey: generationKey(), loader, ttlMs: loadTtlMs })
        : loadUnstored(key, loader)
    const signal = callOptions?.signal
    return signal ? withDeadline(wait, undefined, neverLate, signal) : wait
  }

  async function loadUnstored(key: string, loader: () => unknown): Promise<unknown> {
    const found = await read(key)
    if (found) return found.value
    counters.loads += 1
    const value = await loader()
    return value === undefined ? undefined : decodeValue(encodeValue(key, value))
  }

  async function change(key: string, command: (client: RedisClient, redisKey: string) => Promise<unknown>) {
    const redisKey = keyOf(key)
    begin()
    near.beginWrite(key)
    try {
      await far.write((client) => command(client, redisKey))
    } finally {
      near.endWrite(key)
    }
  }

  function close(): Promise<void> {
    closed = true
    forget()
    stopWatching?.()
    fresh.lost('closed')
    near.clear()
    return Promise.resolve()
  }

  return {
    async get<Value>(key: string) {
      const copy = near.get(key)
      if (copy === undefined) return (await read(key))?.value as Value | undefined
      counters.l1Hits += 1
      return copy.value as Value
    },
    peek: (key) => near.get(key)?.value as never,
    async has(key) {
      return near.get(key) !== undefined || (await read(key)) !== undefined
    },
    async getOrSet<Value>(key: string, loader: () => Value | Promise<Value>, callOptions?: LoadOptions) {
      const copy = near.get(key)
      if (copy === undefined) return load(key, loader, callOptions) as Promise<Value>
      counters.l1Hits += 1
      return copy.value as Value
    },
    async set(key, value, callOptions) {
      const setTtlMs = resolveSetTtl(callOptions, ttlMs)
      if (setTtlMs === 0) return change(key, (client, redisKey) => client.del(redisKey))
      const json = encodeValue(checkKey(key), value)
      return change(key, async (client, redisKey) => {
        const current = generation.now() ?? (await generation.ask(client, generationKey()))
        return client.set(redisKey, encodeEntry(current, json), 'PX', setTtlMs)
      })
    },
    delete: (key) => change(key, (client, redisKey) => client.del(redisKey)),
    async clear() {
      begin()
      generation.beginAdvance()
      near.clear()
      try {
        await far.write((client) => generation.advance(client, generationKey()))
      } finally {
        generation.endAdvance()
        near.clear()
      }
    },
    stats() {
      const { l1Hits, l2Hits, invalidations, ...rest } = counters
      const on = fresh.isProven()
      return {
        hits: { l1: l1Hits, l2: l2Hits },
        ...rest,
        invalidations,
        l1: { entries: near.size, bytes: near.bytes, on, reason: on ? undefined : fresh.reason },
      }
    },
    close,
  }
}

function neverLate(): Error {
  return new Error('no deadline was given')
}
