import type { SharedContext } from '../context.ts'
import { CacheEngine, namespaceVersion, tagVersion } from './engine.ts'
import type { CacheEvents, CacheListener } from './events.ts'
import type { LoadContext } from './load-context.ts'
import {
  type CacheOptions,
  checkKey,
  type LoadOptions,
  type ResolvedLife,
  resolveCacheOptions,
  resolveLoad,
  resolveSet,
  type SetOptions,
} from './options.ts'
import type { Loader } from './single-flight.ts'
import type { CacheStats } from './stats.ts'
import { GENERATION } from './versions.ts'

/** One of `setMany`. */
export interface CacheEntry extends SetOptions {
  readonly key: string
  readonly value: unknown
}

/** For `wrap`. */
export interface WrapOptions<Args extends readonly unknown[]> extends LoadOptions {
  /** The key of a call. */
  key(...args: Args): string
}

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
  /** As many `get`, with one command to Redis for 64 of them (on Cluster one for each). */
  getMany<Value = unknown>(keys: readonly string[]): Promise<(Value | undefined)[]>
  /**
   * The value; when there is none, `loader` makes it, once for all callers of all processes. What it throws is passed
   * on and not stored; undefined is passed on and not stored, unless `negativeTtl` says so.
   *
   * @throws SharedStateError `ERR_AS_ONE_CACHE` for a key or value that cannot be stored, `ERR_AS_ONE_OPTIONS`,
   * `ERR_AS_ONE_TIMEOUT` after `hardTimeout`, `ERR_AS_ONE_ABORTED`, `ERR_AS_ONE_CLOSED`
   * @example const product = await cache.getOrSet(`product:${id}`, () => db.product(id), { ttl: '1m' })
   */
  getOrSet<Value>(
    key: string,
    loader: (context: LoadContext) => Value | Promise<Value>,
    options?: LoadOptions,
  ): Promise<Value>
  /**
   * `fn` through `getOrSet`.
   *
   * @throws SharedStateError `ERR_AS_ONE_OPTIONS`
   * @example const user = cache.wrap((id: number) => db.user(id), { key: (id) => `user:${id}`, ttl: '1m' })
   */
  wrap<Args extends readonly unknown[], Value>(
    fn: (...args: Args) => Value | Promise<Value>,
    options: WrapOptions<Args>,
  ): (...args: Args) => Promise<Value>
  /**
   * Resolves when Redis has the value; every process drops its copy at the latest `maxStaleness` later. When it
   * rejects, the value may or may not have been written.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE`, `ERR_AS_ONE_CACHE`, `ERR_AS_ONE_OPTIONS`, `ERR_AS_ONE_CLOSED`
   */
  set(key: string, value: unknown, options?: SetOptions): Promise<void>
  /** As many `set`; when it rejects, any of them may have been written. */
  setMany(entries: readonly CacheEntry[]): Promise<void>
  /** Resolves when Redis has deleted it; otherwise as `set`. */
  delete(key: string): Promise<void>
  /** As many `delete`. */
  deleteMany(keys: readonly string[]): Promise<void>
  /** Deletes all entries with one of these tags, in one step for each tag however many there are; otherwise as `set`. */
  deleteByTag(...tags: string[]): Promise<void>
  /** Ends the TTL now: as `delete`, but a value with `grace` can still be fallen back on. */
  expire(key: string): Promise<void>
  /** Deletes all entries of this cache or namespace, in one step however many there are; otherwise as `set`. */
  clear(): Promise<void>
  /**
   * The part of this cache whose keys begin with `name:`, with a `clear()` of its own. What is in it and was not
   * written through it does not belong to it.
   *
   * @throws SharedStateError `ERR_AS_ONE_CACHE`
   */
  namespace(name: string): Cache
  stats(): CacheStats
  /** Returns the function that ends it. */
  on<Event extends keyof CacheEvents>(event: Event, listener: CacheListener<Event>): () => void
  /** Lets go of the copies; of a namespace: of the whole cache. Idempotent. */
  close(): Promise<void>
}

/**
 * A cache on an explicit instance. Opens no connection; the first use does.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 */
export function createCache(ctx: SharedContext, given: CacheOptions = {}): Cache {
  return viewOf(new CacheEngine(ctx, resolveCacheOptions(given)), '', [])
}

/** A cache, or a namespace: the engine's keys that begin with `prefix`, all of which have the tags `within`. */
function viewOf(engine: CacheEngine, prefix: string, within: readonly string[]): Cache {
  const { near, counters, events } = engine
  const defaults = Object.freeze({ ...engine.options.life, tags: within })

  const keyOf = (key: unknown): string => prefix + checkKey(key)

  function withTags<Life extends ResolvedLife>(life: Life): Life {
    if (life.tags === within) return life
    return { ...life, tags: [...life.tags.map(tagVersion), ...within] }
  }

  async function get(key: string): Promise<unknown> {
    const copy = near.get(prefix + key)
    if (copy === undefined) return (await engine.read(keyOf(key)))?.value
    counters.l1Hits += 1
    return copy.value
  }

  async function getOrSet(key: string, loader: Loader, options?: LoadOptions): Promise<unknown> {
    const copy = near.get(prefix + key)
    // Awaited: a promise that is returned as it is takes the caller two turns more.
    if (copy === undefined)
      return await engine.load(keyOf(key), loader, withTags(resolveLoad(options, defaults)))
    counters.l1Hits += 1
    if (copy.refreshAt !== Number.POSITIVE_INFINITY && performance.now() >= copy.refreshAt) {
      copy.refreshAt = Number.POSITIVE_INFINITY // one attempt for each copy; there is a new one after it
      engine.refresh(keyOf(key), loader, withTags(resolveLoad(options, defaults)), copy.token)
    }
    return copy.value
  }

  async function set(key: string, value: unknown, options?: SetOptions): Promise<void> {
    return engine.set(keyOf(key), value, withTags(resolveSet(options, defaults)))
  }

  const remove = async (key: string): Promise<void> => engine.delete(keyOf(key))

  return {
    get: get as Cache['get'],
    peek: (key) => near.get(prefix + key)?.value as never,
    has: async (key) => (near.get(prefix + key) ?? (await engine.read(keyOf(key))))?.value !== undefined,
    getMany(keys) {
      engine.readTogether()
      return Promise.all(keys.map(get)) as never
    },
    getOrSet: getOrSet as Cache['getOrSet'],
    wrap(fn, { key, ...options }) {
      if (typeof key !== 'function') checkKey(key, 'key of wrap, a function from the arguments to it,')
      resolveLoad(options, defaults) // mistakes are told now, not at the first miss
      return (...args) => getOrSet(key(...args), () => fn(...args), options) as never
    },
    set,
    async setMany(entries) {
      await Promise.all(entries.map(({ key, value, ...options }) => set(key, value, options)))
    },
    delete: remove,
    async deleteMany(keys) {
      await Promise.all(keys.map(remove))
    },
    async deleteByTag(...tags) {
      const names = tags.map((tag) => tagVersion(checkKey(tag, 'tag')))
      await Promise.all(names.map((name) => engine.advance(name)))
    },
    expire: async (key) => engine.expire(keyOf(key)),
    clear: () => engine.advance(within.at(-1) ?? GENERATION),
    namespace(name) {
      const inner = `${keyOf(name)}:`
      return viewOf(engine, inner, [...within, namespaceVersion(inner)])
    },
    stats: () => engine.stats(),
    on: (event, listener) => events.on(event, listener),
    close: () => engine.close(),
  }
}
