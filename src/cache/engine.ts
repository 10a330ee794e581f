import type { SharedContext } from '../context.ts'
import { withDeadline } from '../core/abort.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { RedisClient } from '../redis/client.ts'
import { encodeEntry } from './entry.ts'
import { Events } from './events.ts'
import { FarCache, isUnavailable } from './far-cache.ts'
import { Freshness } from './freshness.ts'
import { expire, newToken } from './lease.ts'
import { OwnLoadContext } from './load-context.ts'
import { NearCache } from './near-cache.ts'
import { type ResolvedCacheOptions, type ResolvedLife, type ResolvedLoad, withJitter } from './options.ts'
import { fillingOf, Reader } from './reader.ts'
import { type Loader, type LoadRequest, SingleFlight } from './single-flight.ts'
import { type CacheStats, createCounters } from './stats.ts'
import { Values } from './values.ts'
import { GENERATION, Versions } from './versions.ts'

/** What stands between the generation's key and the rest: an entry's key, a tag, a namespace. */
const KEY_MARK = ':'

/** One cache of one process, by keys that have been checked; `cache.ts` is its face. */
export class CacheEngine {
  readonly options: ResolvedCacheOptions
  readonly near: NearCache
  readonly events: Events
  readonly counters: ReturnType<typeof createCounters> = createCounters()
  readonly #ctx: SharedContext
  readonly #fresh: Freshness
  readonly #far: FarCache
  readonly #versions: Versions
  readonly #values: Values
  readonly #reader: Reader
  readonly #flights: SingleFlight
  readonly #forget: () => void
  readonly #stops: (() => void)[] = []
  #started = false
  #closed = false

  constructor(ctx: SharedContext, options: ResolvedCacheOptions) {
    const { name, maxStalenessMs, l1, life, outage } = options
    this.#ctx = ctx
    this.options = options
    this.events = new Events(name)
    this.#fresh = new Freshness(maxStalenessMs, l1 ? 'not used yet' : 'switched off by l1: false')
    this.near = new NearCache(this.#fresh, l1, outage === 'serve' || life.graceMs > 0)
    this.#versions = new Versions(this.#fresh, (version) => ctx.keys.key('cache', name + version))
    this.#values = new Values(options.serializer, options.maxValueBytes)
    const maxBytes = options.maxValueBytes + MAX_REST_BYTES
    this.#far = new FarCache(ctx.redis, this.#versions, { timeoutMs: options.timeoutMs, maxBytes })
    this.#reader = new Reader(this.#far, this.#versions, this.#values)
    this.#flights = new SingleFlight({
      options,
      near: this.near,
      far: this.#far,
      reader: this.#reader,
      fresh: this.#fresh,
      versions: this.#versions,
      values: this.#values,
      counters: this.counters,
      events: this.events,
      holder: () => ctx.bus.members().find(({ self }) => self)?.id,
    })
    this.#forget = ctx.closing.add(() => this.close())
  }

  /** What L2 has, kept in L1; undefined in a box for what is not there. */
  async read(key: string): Promise<{ readonly value: unknown } | undefined> {
    const redisKey = this.#keyOf(key)
    this.#begin()
    const mark = this.near.begin(key)
    try {
      const seen = await this.#reader.read(redisKey)
      if (seen?.found && seen.freshMs > 0) {
        this.counters.l2Hits += 1
        this.near.fill(mark, fillingOf(seen, seen.found, this.options.life))
        return seen.found
      }
    } catch (error) {
      if (!isUnavailable(error)) throw error
      this.events.emit('unavailable', { operation: 'get', reason: messageOf(error) })
      const copy = this.options.outage === 'serve' ? this.near.unproven(key) : undefined
      if (copy) return copy
    } finally {
      this.near.end(mark)
    }
    this.counters.misses += 1
    return undefined
  }

  /** Before several are read at once. */
  readTogether(): void {
    this.#far.together()
  }

  load(key: string, loader: Loader, load: ResolvedLoad): Promise<unknown> {
    const request = this.#requestOf(key, loader, load)
    this.#begin()
    const wait = load.ttlMs > 0 ? this.#flights.get(request) : this.#loadUnstored(key, loader)
    return load.signal ? withDeadline(wait, undefined, neverLate, load.signal) : wait
  }

  /** Replaces in the background what has been written by `token`. */
  refresh(key: string, loader: Loader, load: ResolvedLoad, token: string): void {
    if (this.#closed || load.ttlMs === 0) return
    this.#flights.refresh(this.#requestOf(key, loader, load), token)
  }

  set(key: string, value: unknown, life: ResolvedLife): Promise<void> {
    if (life.ttlMs === 0) return this.delete(key)
    const payload = this.#values.encode(key, value)
    const { graceMs, tags } = life
    const ttlMs = withJitter(life.ttlMs, life.jitter)
    return this.#change(key, (client, redisKey, stillWanted) => {
      const send = (generation: string, versions: readonly string[]): Promise<unknown> => {
        const entry = encodeEntry({ generation, token: newToken(), graceMs, tags: versions }, payload)
        return client.set(redisKey, entry, 'PX', ttlMs + graceMs)
      }
      const generation = this.#versions.now(GENERATION)
      if (generation !== undefined && tags.length === 0) return send(generation, tags)
      const asked = Promise.all([
        generation ?? this.#versions.ask(client, GENERATION),
        tags.length === 0 ? tags : this.#versions.askAll(client, tags),
      ])
      return asked.then((versions) => {
        stillWanted()
        return send(...versions)
      })
    })
  }

  delete(key: string): Promise<void> {
    return this.#change(key, (client, redisKey) => client.del(redisKey))
  }

  expire(key: string): Promise<void> {
    return this.#change(key, expire)
  }

  /** Everything that carries this version is deleted, in one step however much it is. */
  async advance(version: string): Promise<void> {
    this.#begin()
    this.#versions.beginAdvance(version)
    this.#drop(version)
    try {
      await this.#far.write((client) => this.#versions.advance(client, version))
    } finally {
      this.#versions.endAdvance(version)
      this.#drop(version)
    }
  }

  stats(): CacheStats {
    const { l1Hits, l2Hits, ...rest } = this.counters
    const on = this.#fresh.isProven()
    const { size: entries, bytes } = this.near
    const reason = on ? undefined : this.#fresh.reason
    return { hits: { l1: l1Hits, l2: l2Hits }, ...rest, l1: { entries, bytes, on, reason } }
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve()
    this.#closed = true
    this.#forget()
    for (const stop of this.#stops) stop()
    this.#fresh.lost('closed')
    this.near.clear()
    this.#far.close()
    return Promise.resolve()
  }

  /** At the first use, since until then `runCluster` may yet say where Redis is. */
  #begin(): void {
    const { name, l1, maxStalenessMs } = this.options
    if (this.#closed) throw new SharedStateError('ERR_AS_ONE_CLOSED', `the cache '${name}' has been closed`)
    if (this.#started) return
    this.#started = true
    this.#stops.push(this.#ctx.bus.on('leave', ({ id }) => this.#flights.gone(id)))
    if (!l1) return
    const fresh = this.#fresh
    fresh.reason = 'waiting for the first proof of freshness'
    const stop = this.#ctx.invalidations.watch({
      proofEveryMs: maxStalenessMs / 4,
      invalidated: (keys) => this.#hear(keys),
      proven: (at) => {
        if (!fresh.synced) {
          this.near.endOutage()
          this.events.emit('l1-on', {})
        }
        fresh.proven(at)
      },
      lost: (reason, refused) => {
        const { synced } = fresh
        const isNews = synced || fresh.reason !== reason
        fresh.lost(reason)
        // Said again at every attempt to listen; what was loaded since the first time has nothing to fear.
        if (synced) {
          this.#versions.allChanged()
          this.near.doubt()
        }
        if (isNews) this.events.emit('l1-off', { reason, refused })
      },
    })
    this.#stops.push(stop)
  }

  #hear(keys: readonly string[] | null): void {
    if (keys === null) {
      this.counters.invalidations += 1
      this.#versions.allChanged()
      this.near.clear()
      return
    }
    const { name } = this.options
    for (const key of keys) {
      if (!key.startsWith(name)) continue
      const rest = key.slice(name.length)
      if (rest.startsWith(KEY_MARK)) {
        this.near.drop(rest.slice(1))
      } else if (rest === GENERATION || isVersion(rest)) {
        this.#versions.changed(rest)
        this.#drop(rest)
      } else {
        continue // another cache, whose name begins like ours
      }
      this.counters.invalidations += 1
    }
  }

  #drop(version: string): void {
    if (version === GENERATION) this.near.clear()
    else this.near.dropTag(version)
  }

  async #change(
    key: string,
    command: (client: RedisClient, redisKey: string, stillWanted: () => void) => Promise<unknown>,
  ): Promise<void> {
    const redisKey = this.#keyOf(key)
    this.#begin()
    this.near.beginWrite(key)
    try {
      await this.#far.write((client, stillWanted) => command(client, redisKey, stillWanted))
    } finally {
      this.near.endWrite(key)
    }
  }

  async #loadUnstored(key: string, loader: Loader): Promise<unknown> {
    const found = await this.read(key)
    if (found) return found.value
    this.counters.loads += 1
    const value = await loader(new OwnLoadContext(undefined))
    return value === undefined ? undefined : this.#values.decode(this.#values.encode(key, value))?.value
  }

  #requestOf(key: string, loader: Loader, load: ResolvedLoad): LoadRequest {
    return { key, redisKey: this.#keyOf(key), loader, load, tags: load.tags }
  }

  #keyOf(key: string): string {
    return this.#ctx.keys.key('cache', this.options.name + KEY_MARK + key)
  }
}

/** Header, tags and their versions. */
const MAX_REST_BYTES = 300_000

const TAG_MARK = '#'
const NAMESPACE_MARK = '@'

/** The names of versions; neither can be the name of another cache, nor any entry's key. */
export const tagVersion = (tag: string): string => TAG_MARK + tag
export const namespaceVersion = (prefix: string): string => NAMESPACE_MARK + prefix

function isVersion(rest: string): boolean {
  return rest.startsWith(TAG_MARK) || rest.startsWith(NAMESPACE_MARK)
}

function neverLate(): Error {
  return new Error('no deadline was given')
}
