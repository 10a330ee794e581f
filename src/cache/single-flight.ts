import { AsyncLocalStorage } from 'node:async_hooks'
import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import type { RedisClient } from '../redis/client.ts'
import { decodeEntry, decodeValue, encodeEntry, encodeValue, OTHER_GENERATION } from './entry.ts'
import { type FarCache, isUnavailable } from './far-cache.ts'
import type { Freshness } from './freshness.ts'
import type { Generation } from './generation.ts'
import { type Acquired, acquire, type Knowledge, newToken, release, renew, store } from './lease.ts'
import type { Mark, NearCache } from './near-cache.ts'
import type { ResolvedCacheOptions } from './options.ts'
import { createSlots, type Slots } from './slots.ts'
import type { CacheCounters } from './stats.ts'

export type Loader = () => unknown

/** What one `getOrSet` wants. */
export interface LoadRequest {
  readonly key: string
  readonly redisKey: string
  readonly generationKey: string
  readonly loader: Loader
  readonly ttlMs: number
}

export interface SingleFlightContext {
  readonly options: ResolvedCacheOptions
  readonly near: NearCache
  readonly far: FarCache
  readonly fresh: Freshness
  readonly generation: Generation
  readonly counters: CacheCounters
}

/** Without word from the hub, the end of somebody else's load is looked for this often. */
const POLL_MS = 50

/** One or more local callers that wait for the same thing. */
interface Flight {
  readonly token: string
  /** Of the latest question to Redis. */
  mark: Mark
  /** Going to ask Redis again before it answers: whatever is written until then will be seen. */
  waiting: boolean
  promise: Promise<unknown>
}

/** One loader per key: local callers share a promise, processes share a lease. */
export class SingleFlight {
  readonly #context: SingleFlightContext
  readonly #flights = new Map<string, Flight>()
  /** Loads of this process by the token of their lease. */
  readonly #loads = new Map<string, Promise<unknown>>()
  /** The loads that the running code is part of: waiting for one of them would last for ever. */
  readonly #inside = new AsyncLocalStorage<ReadonlySet<string>>()
  readonly #slots: Slots

  constructor(context: SingleFlightContext) {
    this.#context = context
    this.#slots = createSlots(context.options.outageConcurrency)
  }

  /** The value from L2, from another's load, or from the loader. */
  get(request: LoadRequest): Promise<unknown> {
    const { key } = request
    const flying = this.#flights.get(key)
    if (flying && this.#mayJoin(flying)) {
      this.#checkNotInside(flying.token, key)
      return flying.promise
    }
    const flight: Flight = {
      token: newToken(),
      mark: this.#context.near.begin(key),
      waiting: false,
      promise: Promise.resolve(),
    }
    this.#flights.set(key, flight)
    flight.promise = this.#fly(flight, request).finally(() => {
      this.#context.near.end(flight.mark)
      if (this.#flights.get(key) === flight) this.#flights.delete(key)
    })
    return flight.promise
  }

  /** As for a copy: nothing has been heard, and it is proven or not long ago that there was nothing to hear. */
  #mayJoin({ waiting, mark }: Flight): boolean {
    if (waiting) return true
    if (mark.soiled) return false
    const { fresh, options } = this.#context
    const now = performance.now()
    return now <= mark.startedAt + options.maxStalenessMs || (mark.mayFill && fresh.isProven(now))
  }

  async #fly(flight: Flight, request: LoadRequest): Promise<unknown> {
    const { near, far, fresh, counters } = this.#context
    let unreadable = false
    for (;;) {
      let step: Acquired
      let generation = ''
      try {
        ;[step, generation] = await far.read((client) => this.#ask(client, flight, request, unreadable))
      } catch (error) {
        if (!isUnavailable(error)) throw error
        publishUnavailable('getOrSet', error)
        return this.#loadWithoutRedis(flight, request)
      }
      if (step[0] === 'value') {
        const found = decodeEntry(step[1], generation)
        if (found !== undefined && found !== OTHER_GENERATION) {
          counters.l2Hits += 1
          near.fill(flight.mark, found, step[2])
          return found.value
        }
        unreadable = true // what has our header but no JSON behind it
      } else if (step[0] === 'acquired') {
        counters.misses += 1
        return this.#lead(flight, request, generation)
      } else if (step[0] === 'leased') {
        const own = this.#loads.get(step[1])
        this.#checkNotInside(step[1], request.key)
        if (own) return own
        flight.waiting = true
        await changeOf(flight.mark, fresh.isProven() ? step[2] + 1 : Math.min(step[2] + 1, POLL_MS))
      }
      near.end(flight.mark)
      flight.mark = near.begin(request.key)
      flight.waiting = false
    }
  }

  async #ask(
    client: RedisClient,
    flight: Flight,
    { redisKey, generationKey }: LoadRequest,
    unreadable: boolean,
  ): Promise<[Acquired, generation: string]> {
    const { leaseMs } = this.#context.options
    const known = this.#context.generation.now()
    if (known !== undefined && !unreadable) {
      const step = await acquire(client, redisKey, flight.token, leaseMs, known, '0')
      if (step[0] !== 'generation') return [step, known]
    }
    const generation = await this.#context.generation.ask(client, generationKey)
    const knowledge: Knowledge = unreadable ? '2' : '1'
    return [await acquire(client, redisKey, flight.token, leaseMs, generation, knowledge), generation]
  }

  /** This process has the lease: the others wait for it. */
  async #lead(flight: Flight, request: LoadRequest, generation: string): Promise<unknown> {
    const load = this.#loadAndStore(flight, request, generation)
    this.#loads.set(flight.token, load)
    const { far, options } = this.#context
    const renewal = setInterval(() => {
      far
        .read((client) => renew(client, request.redisKey, flight.token, options.leaseMs))
        .then(
          (held) => held || clearInterval(renewal),
          () => {}, // the next one may get through in time
        )
    }, options.leaseMs / 3).unref()
    try {
      return await load
    } finally {
      clearInterval(renewal)
      this.#loads.delete(flight.token)
    }
  }

  async #loadAndStore(flight: Flight, request: LoadRequest, generation: string): Promise<unknown> {
    const { far, counters } = this.#context
    const { redisKey, ttlMs } = request
    let json: string | undefined
    try {
      json = await this.#run(flight, request)
    } catch (error) {
      this.#giveBack(flight, redisKey)
      throw error
    }
    if (json === undefined) {
      this.#giveBack(flight, redisKey)
      return undefined
    }
    const entry = encodeEntry(generation, json)
    try {
      if (await far.read((client) => store(client, redisKey, flight.token, entry, ttlMs))) {
        counters.stores += 1
      } else {
        counters.refusedStores += 1
        if (channels.cache.hasSubscribers)
          channels.cache.publish({ event: 'store-refused', key: request.key })
      }
    } catch (error) {
      publishUnavailable('store', error)
    }
    return decodeValue(json)
  }

  /** The loader's value as JSON, so that all callers get the same, whoever ran it; undefined is no value. */
  async #run(flight: Flight, { key, loader }: LoadRequest): Promise<string | undefined> {
    this.#context.counters.loads += 1
    const inside = new Set([...(this.#inside.getStore() ?? []), flight.token])
    const value = await this.#inside.run(inside, loader)
    return value === undefined ? undefined : encodeValue(key, value)
  }

  /** Not waited for: if it does not arrive, the lease ends by itself. */
  #giveBack(flight: Flight, redisKey: string): void {
    this.#context.far.read((client) => release(client, redisKey, flight.token)).catch(() => {})
  }

  /** An outage of Redis must not become one of the database: few at a time, and each answer serves for a while. */
  async #loadWithoutRedis(flight: Flight, request: LoadRequest): Promise<unknown> {
    const { near, options, counters } = this.#context
    counters.misses += 1
    const free = await this.#slots.take()
    try {
      near.end(flight.mark)
      flight.mark = near.begin(request.key)
      const json = await this.#run(flight, request)
      if (json === undefined) return undefined
      const value = decodeValue(json)
      near.fillWithoutProof(flight.mark, { value, size: json.length }, options.maxStalenessMs)
      return value
    } finally {
      free()
    }
  }

  #checkNotInside(token: string, key: string): void {
    if (!this.#inside.getStore()?.has(token)) return
    throw new SharedStateError(
      'ERR_AS_ONE_CACHE',
      `the loader of ${show(key)} waits for itself: it asks the cache for the key that it is loading`,
    )
  }
}

/** Resolves when the key changes, or is believed to have changed, and at the latest after `ms`. */
function changeOf(mark: Mark, ms: number): Promise<void> {
  if (mark.soiled) return Promise.resolve()
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    mark.onSoiled = () => {
      clearTimeout(timer)
      resolve()
    }
  })
}

export function publishUnavailable(operation: string, error: unknown): void {
  if (channels.cache.hasSubscribers)
    channels.cache.publish({ event: 'unavailable', operation, reason: messageOf(error) })
}
