import { AsyncLocalStorage } from 'node:async_hooks'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { PassingMap } from '../core/passing-map.ts'
import type { RedisClient } from '../redis/client.ts'
import { encodeEntry, encodeMeta, tokenIn } from './entry.ts'
import type { Events } from './events.ts'
import { type FarCache, isUnavailable } from './far-cache.ts'
import type { Freshness } from './freshness.ts'
import { acquire, holderOf, newToken, type Present, release, renew, store } from './lease.ts'
import { type LoadContext, OwnLoadContext } from './load-context.ts'
import type { Mark, NearCache } from './near-cache.ts'
import { type ResolvedCacheOptions, type ResolvedLoad, withJitter } from './options.ts'
import { lastCopy, type Stale, waitFor } from './patience.ts'
import { fillingOf, type Reader, type Seen } from './reader.ts'
import { createSlots, type Slots } from './slots.ts'
import type { CacheCounters } from './stats.ts'
import type { Values } from './values.ts'
import { GENERATION, type Versions } from './versions.ts'

export type Loader = (context: LoadContext) => unknown

/** What one `getOrSet` wants. */
export interface LoadRequest {
  readonly key: string
  readonly redisKey: string
  readonly loader: Loader
  readonly load: ResolvedLoad
  /** Names of the versions of its tags. */
  readonly tags: readonly string[]
}

export interface SingleFlightContext {
  readonly options: ResolvedCacheOptions
  readonly near: NearCache
  readonly far: FarCache
  readonly reader: Reader
  readonly fresh: Freshness
  readonly versions: Versions
  readonly values: Values
  readonly counters: CacheCounters
  readonly events: Events
  /** The bus' id of this process: when it is seen to leave, its leases are free. */
  holder(): string | undefined
}

/** Without word from the hub, the end of somebody else's load is looked for this often. */
const POLL_MS = 50
/** Of processes that have left; their leases end by themselves long before they are forgotten. */
const MAX_GONE = 1_000

/** One or more local callers that wait for the same thing. */
export interface Flight {
  readonly key: string
  /** Of its lease; empty until it needs one. */
  token: string
  /** Of the latest question to Redis. */
  mark: Mark
  /** Whose lease it waits for. Going to ask Redis again before it answers: what is written until then will be seen. */
  waitingFor: string | undefined
  answered: boolean
  /** A load waits for it that has a turn: waiting for one too, both would wait for ever. */
  needsNoTurn: boolean
  /**
   * While its loader waits for its turn: has it begin at once. Whoever comes now gets nothing older than by a flight of
   * his own.
   */
  jumpQueue: (() => void) | undefined
  /** What can be served meanwhile; whoever waits for that is told. */
  stale: Stale | undefined
  onStale: Set<() => void> | undefined
  promise: Promise<unknown>
}

interface Found {
  readonly is: 'found'
  readonly value: unknown
}

/** The lease, and what the world was like before the loader began. */
interface Acquired {
  readonly is: 'acquired'
  readonly generation: string
  readonly tags: readonly string[]
}

interface Leased {
  readonly is: 'leased'
  readonly token: string
  readonly leftMs: number
}

/** What has come of asking Redis once. */
type Step = Found | Acquired | Leased | { readonly is: 'away' }

const AWAY = { is: 'away' } as const

/** What a loader has brought; TTL 0: not to be stored. */
interface Loaded {
  readonly payload: string
  readonly ttlMs: number
  readonly graceMs: number
}

const NOWHERE: ReadonlySet<string> = new Set()

/** One loader per key: local callers share a promise, processes share a lease. */
export class SingleFlight {
  readonly #context: SingleFlightContext
  readonly #flights = new PassingMap<string, Flight>()
  readonly #refreshing = new Set<string>()
  /** Loads of this process by the token of their lease. */
  readonly #loads = new Map<string, Promise<unknown>>()
  /** The loads that the running code is part of: waiting for one of them would last for ever. */
  readonly #inside = new AsyncLocalStorage<ReadonlySet<string>>()
  #loadersRunning = 0
  readonly #gone = new Set<string>()
  readonly #slots: Slots

  constructor(context: SingleFlightContext) {
    this.#context = context
    this.#slots = createSlots(context.options.outageConcurrency)
  }

  /** The value from L2, from another's load, or from the loader; or one in its grace, when that takes too long. */
  get(request: LoadRequest): Promise<unknown> {
    const { key } = request
    const flying = this.#flights.get(key)
    if (flying && this.#mayJoin(flying)) {
      this.#checkNotInside(flying.token, key)
      if (this.#isInside()) {
        flying.needsNoTurn = true
        flying.jumpQueue?.()
      }
      return waitFor(flying, request.load, this.#context)
    }
    const flight = this.#begin(key)
    this.#flights.set(key, flight)
    flight.promise = this.#fly(flight, request)
    return waitFor(flight, request.load, this.#context)
  }

  /** Replaces, in the background, the value that `token` has written, unless somebody else does. */
  refresh(request: LoadRequest, token: string): void {
    const { key } = request
    if (this.#refreshing.has(key) || this.#flights.get(key)) return
    this.#refreshing.add(key)
    const flight = this.#begin(key)
    const replace = () => this.#replace(flight, request, token)
    // Nobody waits for it, so it is inside of nothing.
    const replacing = this.#inside.getStore() === undefined ? replace() : this.#inside.run(NOWHERE, replace)
    replacing
      .catch((error: unknown) => {
        if (isUnavailable(error)) this.#tellUnavailable('refresh', error)
        else this.#context.events.emit('load-failed', { key, error })
      })
      .finally(() => {
        this.#context.near.end(flight.mark)
        this.#refreshing.delete(key)
      })
  }

  /** A process has left: whoever waits for its leases need not wait for their end. */
  gone(holder: string): void {
    this.#gone.add(holder)
    for (const oldest of this.#gone) {
      if (this.#gone.size <= MAX_GONE) break
      this.#gone.delete(oldest)
    }
    for (const [, { waitingFor, mark }] of this.#flights.entries())
      if (waitingFor !== undefined && holderOf(waitingFor) === holder) mark.onSoiled?.()
  }

  #begin(key: string): Flight {
    return {
      key,
      token: '',
      mark: this.#context.near.begin(key),
      waitingFor: undefined,
      answered: false,
      needsNoTurn: this.#isInside(),
      jumpQueue: undefined,
      stale: undefined,
      onStale: undefined,
      promise: Promise.resolve(),
    }
  }

  #tokenOf(flight: Flight): string {
    flight.token ||= newToken(this.#context.holder())
    return flight.token
  }

  /** As for a copy: nothing has been heard, and it is proven or not long ago that there was nothing to hear. */
  #mayJoin({ waitingFor, jumpQueue, mark }: Flight): boolean {
    if (waitingFor !== undefined || jumpQueue) return true
    if (mark.soiled) return false
    const { fresh, options } = this.#context
    const now = performance.now()
    return now <= mark.startedAt + options.maxStalenessMs || (mark.mayFill && fresh.isProven(now))
  }

  async #fly(flight: Flight, request: LoadRequest): Promise<unknown> {
    const { near, fresh, counters, reader } = this.#context
    const { key } = request
    try {
      for (;;) {
        let step: Step = AWAY
        try {
          const seen = await reader.read(request.redisKey)
          flight.answered = true
          step = this.#hit(flight, request, seen) ?? (await this.#lease(flight, request, seen))
        } catch (error) {
          if (!isUnavailable(error)) throw error
          this.#tellUnavailable('getOrSet', error)
        }
        if (step.is === 'found') return step.value
        if (step.is === 'away') return await this.#loadWithoutRedis(flight, request)
        if (step.is === 'acquired') {
          counters.misses += 1
          return await this.#lead(flight, request, step)
        }
        this.#checkNotInside(step.token, key)
        const own = this.#loads.get(step.token)
        if (own) return await own
        flight.waitingFor = step.token
        await changeOf(flight.mark, fresh.isProven() ? step.leftMs + 1 : Math.min(step.leftMs + 1, POLL_MS))
        near.end(flight.mark)
        flight.mark = near.begin(key)
        flight.waitingFor = undefined
      }
    } finally {
      near.end(flight.mark)
      if (this.#flights.get(key) === flight) this.#flights.delete(key)
    }
  }

  /** A fresh value is an answer, a stale one something to fall back on. */
  #hit(flight: Flight, request: LoadRequest, seen: Seen | undefined): Found | undefined {
    if (seen?.found === undefined) return undefined
    const { near, counters } = this.#context
    const { entry, found, freshMs } = seen
    if (freshMs <= 0) {
      const endedAt = performance.now() + freshMs
      flight.stale = { value: found.value, endedAt, until: endedAt + entry.graceMs }
      for (const tell of flight.onStale ?? []) tell()
      return undefined
    }
    counters.l2Hits += 1
    const filling = fillingOf(seen, found, request.load)
    near.fill(flight.mark, filling)
    if (filling.refreshMs <= 0) queueMicrotask(() => this.#refreshAfter(flight, request, entry.token))
    return { is: 'found', value: found.value }
  }

  /** When the flight that has found the value is over, since there is one for each key. */
  #refreshAfter(flight: Flight, request: LoadRequest, token: string): void {
    flight.promise.then(
      () => this.refresh(request, token),
      () => {},
    )
  }

  /** Until the lease is ours, or there is a value, or somebody whose loader is to be waited for. */
  async #lease(flight: Flight, request: LoadRequest, read: Seen | undefined): Promise<Step> {
    let judged = read && !read.entry.leased ? read.entry.token : undefined
    let keep = read?.found !== undefined
    for (;;) {
      const step = await this.#acquire(flight, request, judged, keep)
      if ('is' in step) return step
      const [text, ttlMs, leftMs] = step
      const seen = await this.#context.reader.judge({ text, ttlMs })
      const hit = this.#hit(flight, request, seen)
      if (hit) return hit
      const token = tokenIn(text)
      if (leftMs > 0 && seen?.current && !this.#gone.has(holderOf(token)))
        return { is: 'leased', token, leftMs }
      judged = token
      keep = seen?.found !== undefined
    }
  }

  async #acquire(
    flight: Flight,
    { redisKey, tags: names }: LoadRequest,
    judged: string | undefined,
    keep: boolean,
  ): Promise<Present | Acquired> {
    const { far, versions, options } = this.#context
    const { leaseMs } = options
    const token = this.#tokenOf(flight)
    let generation = versions.now(GENERATION)
    let sure = false
    for (;;) {
      let tags: readonly string[] = []
      const step = await far.read(async (client: RedisClient, stillWanted) => {
        sure = generation === undefined
        generation ??= await versions.ask(client, GENERATION)
        if (names.length > 0) tags = await versions.askAll(client, names)
        const meta = encodeMeta(0, tags)
        const { maxBytes } = far
        stillWanted() // or the lease would be nobody's
        return acquire(client, redisKey, { token, leaseMs, generation, sure, judged, keep, meta, maxBytes })
      })
      if (step === 'acquired') return { is: 'acquired', generation: generation as string, tags }
      if (step !== 'generation') return step
      generation = undefined
    }
  }

  async #replace(flight: Flight, request: LoadRequest, token: string): Promise<void> {
    const step = await this.#acquire(flight, request, token, true)
    if (!('is' in step)) return
    this.#context.counters.refreshes += 1
    await this.#lead(flight, request, step)
  }

  /** This process has the lease: the others wait for it. */
  async #lead(flight: Flight, request: LoadRequest, acquired: Acquired): Promise<unknown> {
    const load = this.#loadAndStore(flight, request, acquired)
    this.#loads.set(flight.token, load)
    const { far, options } = this.#context
    const { hardMs } = request.load
    // Nobody has waited for longer than hardTimeout: a loader that never ends must not hold the key for ever.
    const until = hardMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + hardMs
    const renewal = setInterval(() => {
      if (performance.now() > until) return clearInterval(renewal)
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

  async #loadAndStore(
    flight: Flight,
    request: LoadRequest,
    { generation, tags }: Acquired,
  ): Promise<unknown> {
    const { far, counters, events, values } = this.#context
    const { key, redisKey, load } = request
    const began = performance.now()
    let loaded: Loaded | undefined
    try {
      loaded = await this.#run(flight, request)
    } finally {
      // Not waited for: if it does not arrive, the lease ends by itself.
      if (!loaded || loaded.ttlMs === 0)
        far.read((client) => release(client, redisKey, flight.token)).catch(() => {})
    }
    const { payload, ttlMs, graceMs } = loaded
    if (ttlMs > 0) {
      const loadMs = load.early === 'random' ? performance.now() - began : 0
      const entry = encodeEntry({ generation, token: newToken(), graceMs, loadMs, tags }, payload)
      try {
        if (await far.read((client) => store(client, redisKey, flight.token, entry, ttlMs + graceMs))) {
          counters.stores += 1
        } else {
          counters.refusedStores += 1
          events.emit('store-refused', { key })
        }
      } catch (error) {
        this.#tellUnavailable('store', error)
      }
    }
    return values.decode(payload)?.value
  }

  /** The loader's value as text, so that all callers get the same, whoever ran it. */
  async #run(flight: Flight, { key, loader, load }: LoadRequest): Promise<Loaded> {
    const { counters, values } = this.#context
    counters.loads += 1
    const context = new OwnLoadContext(flight.stale?.value)
    const value = await this.#runInside(this.#tokenOf(flight), () => loader(context))
    const { graceMs, negativeMs } = load
    const { ttlMs } = context
    if (value === undefined) return { payload: values.nothing, ttlMs: ttlMs ?? negativeMs ?? 0, graceMs: 0 }
    const payload = values.encode(key, value)
    if (value === null && negativeMs !== undefined) return { payload, ttlMs: ttlMs ?? negativeMs, graceMs: 0 }
    return { payload, ttlMs: ttlMs ?? withJitter(load.ttlMs, load.jitter), graceMs }
  }

  /** As long as an AsyncLocalStorage is in use, Node 20 calls a hook for every promise of the process. */
  async #runInside(token: string, load: () => unknown): Promise<unknown> {
    const inside = new Set([...(this.#inside.getStore() ?? []), token])
    this.#loadersRunning += 1
    try {
      return await this.#inside.run(inside, load)
    } finally {
      this.#loadersRunning -= 1
      if (this.#loadersRunning === 0) this.#inside.disable()
    }
  }

  /** An outage of Redis must not become one of the database: few at a time, and each answer serves for a while. */
  async #loadWithoutRedis(flight: Flight, request: LoadRequest): Promise<unknown> {
    const { near, options, counters, values } = this.#context
    const { key } = request
    const copy = options.outage === 'serve' ? near.unproven(key) : undefined
    if (copy) return copy.value
    counters.misses += 1
    flight.stale = lastCopy(near, key, { outdated: true }) ?? flight.stale
    if (flight.stale) for (const tell of flight.onStale ?? []) tell()
    const turn = flight.needsNoTurn ? undefined : this.#slots.take()
    if (turn) {
      await Promise.race([turn, new Promise<void>((resolve) => (flight.jumpQueue = resolve))])
      flight.jumpQueue = undefined
    }
    try {
      // Who was before us in the queue may have brought it.
      const brought = near.get(key)
      if (brought) return brought.value
      near.end(flight.mark)
      flight.mark = near.begin(key)
      const { payload, ttlMs, graceMs } = await this.#run(flight, request)
      const found = values.decode(payload)
      const forMs = Math.min(ttlMs, options.outageTtlMs)
      if (found && forMs > 0) near.fillWithoutProof(flight.mark, found, forMs, graceMs, request.tags)
      return found?.value
    } finally {
      turn?.then((end) => end())
    }
  }

  #isInside(): boolean {
    return (this.#inside.getStore()?.size ?? 0) > 0
  }

  #checkNotInside(token: string, key: string): void {
    if (!this.#inside.getStore()?.has(token)) return
    throw new SharedStateError(
      'ERR_AS_ONE_CACHE',
      `the loader of ${show(key)} waits for itself: it asks the cache for the key that it is loading`,
    )
  }

  #tellUnavailable(operation: string, error: unknown): void {
    this.#context.events.emit('unavailable', { operation, reason: messageOf(error) })
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
