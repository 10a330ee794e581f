import type { ByteSize, Duration } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { type Neighbours, OptionReader, show } from '../core/options.ts'
import { jsonSerializer, type Serializer } from './values.ts'

/** How values are kept alive and replaced; for a whole cache, or for one call. */
export interface LifeOptions {
  /** How long an entry lives; 0 stores nothing. @default '5m' */
  ttl?: Duration
  /** For so long after its TTL a value may still be served by `getOrSet` when its loader is late or fails. @default 0 */
  grace?: Duration
  /** Up to this fraction of the TTL is taken off at random, so that entries made together do not end together. @default 0 */
  jitter?: number
}

/** How long a caller waits for a loader, and what becomes of its result. */
export interface LoaderOptions extends LifeOptions {
  /** A loader that takes longer goes on, and its callers get the value in its grace, if there is one; 0 asks for that at once. @default none */
  softTimeout?: Duration
  /** No caller waits longer: then it gets the value in its grace or `ERR_AS_ONE_TIMEOUT`. @default none */
  hardTimeout?: Duration
  /** How long null, and undefined too, is kept as a loader's answer; 0 not at all. @default null as any value, undefined not at all */
  negativeTtl?: Duration
  /**
   * Replaces a value before its TTL is over, in the background, by one process: a fraction of the TTL (0.8), or
   * 'random': the slower the loader and the nearer the end, the likelier. @default false
   * @see Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015
   */
  early?: number | 'random' | false
}

export interface CacheOptions extends LoaderOptions {
  /** Two caches with one name share their entries, on all workers; other names, other entries and their own `clear()`. @default 'main' */
  name?: string
  /** No read that begins later than this after a write was confirmed returns what was there before. @default '1s' */
  maxStaleness?: Duration
  /** Copies in this process, or false for none. */
  l1?: NearOptions | false
  /** How long one loader of a key keeps others waiting if its process dies unseen. @default '2s' */
  lease?: Duration
  /** How long a call waits for Redis. @default '500ms' */
  timeout?: Duration
  /** Larger encoded values are refused, and not read either. @default '64mb' */
  maxValueBytes?: ByteSize
  /** How values become text and back; the same on all workers. @default JSON */
  serializer?: Serializer
  /** While Redis cannot be reached: 'load' asks the loader, 'serve' first the copies of this process, for their whole TTL. @default 'load' */
  outage?: 'load' | 'serve'
  /** How long what a loader has brought is kept while Redis cannot be reached. @default as maxStaleness */
  outageTtl?: Duration
  /** Loaders that run at once in this process while Redis cannot be reached. @default 32 */
  outageConcurrency?: number
}

export interface NearOptions {
  /** @default 10,000 */
  maxEntries?: number
  /** Of memory, estimated from the values. @default '64mb' */
  maxBytes?: ByteSize
}

/** For one `set`. */
export interface SetOptions extends LifeOptions {
  /** `deleteByTag` with one of them deletes this entry. */
  tags?: readonly string[]
}

/** For one `getOrSet`. */
export interface LoadOptions extends LoaderOptions {
  /** `deleteByTag` with one of them deletes this entry. */
  tags?: readonly string[]
  /** Ends this caller's wait, not the load, which others may share. */
  signal?: AbortSignal
}

export interface ResolvedLife {
  readonly ttlMs: number
  readonly graceMs: number
  readonly jitter: number
  readonly tags: readonly string[]
}

export interface ResolvedLoad extends ResolvedLife {
  readonly softMs: number | undefined
  readonly hardMs: number | undefined
  readonly negativeMs: number | undefined
  readonly early: number | 'random' | false
  readonly signal: AbortSignal | undefined
}

export interface ResolvedCacheOptions {
  readonly name: string
  readonly life: ResolvedLoad
  readonly maxStalenessMs: number
  readonly l1: { readonly maxEntries: number; readonly maxBytes: number } | undefined
  readonly leaseMs: number
  readonly timeoutMs: number
  readonly maxValueBytes: number
  readonly serializer: Serializer
  readonly outage: 'load' | 'serve'
  readonly outageTtlMs: number
  readonly outageConcurrency: number
}

const REDIS = 'REDIS_URL or the redis option of createShared'
const NEIGHBOURS: Neighbours = {
  max: 'l1.maxEntries',
  maxItems: 'l1.maxEntries',
  maxEntries: 'l1.maxEntries',
  lruSize: 'l1.maxEntries',
  maxSize: 'l1.maxBytes',
  maxBytes: 'l1.maxBytes',
  tracking: 'l1: false',
  stdTTL: 'ttl',
  ttlMs: 'ttl',
  maxAge: 'ttl',
  expires: 'ttl',
  redis: REDIS,
  client: REDIS,
  store: REDIS,
  stores: REDIS,
  serialize: 'serializer',
  timeouts: 'softTimeout or hardTimeout',
  swr: 'grace and softTimeout: 0',
  staleWhileRevalidate: 'grace and softTimeout: 0',
  refreshThreshold: 'early',
  prefix: 'name, or the namespace option of createShared',
  keyPrefix: 'name, or the namespace option of createShared',
  namespace: 'name, or the namespace option of createShared, or cache.namespace()',
  lockTimeout: 'lease',
  commandTimeout: 'timeout',
}
const CALL_NEIGHBOURS: Neighbours = {
  EX: 'ttl',
  PX: 'ttl',
  ex: 'ttl',
  px: 'ttl',
  maxAge: 'ttl',
  ttlMs: 'ttl',
  timeout: 'softTimeout or hardTimeout',
  tag: 'tags',
  swr: 'grace and softTimeout: 0',
  staleWhileRevalidate: 'grace and softTimeout: 0',
  refreshThreshold: 'early',
  forceFresh: 'cache.expire(key) before the call',
  fresh: 'cache.expire(key) before the call',
}

/** Thirteen digits, three centuries; Redis counts further. */
export const LONGEST_MS = 9_999_999_999_999
/** Proofs come four times as often. */
const LEAST_STALENESS_MS = 100
const LEAST_LEASE_MS = 100
const MAX_TAGS = 64
const MAX_VALUE_BYTES = 64 << 20
/** What Redis takes as one text. */
const REDIS_VALUE_BYTES = 512 << 20

const DEFAULT_LIFE: ResolvedLoad = {
  ttlMs: 300_000,
  graceMs: 0,
  jitter: 0,
  tags: [],
  softMs: undefined,
  hardMs: undefined,
  negativeMs: undefined,
  early: false,
  signal: undefined,
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveCacheOptions(options: unknown): ResolvedCacheOptions {
  const reader = new OptionReader('sharedCache', options, NEIGHBOURS)
  const maxStalenessMs = reader.duration('maxStaleness', 1_000, LEAST_STALENESS_MS)
  const resolved = {
    name: reader.string('name', 'main', /^[A-Za-z0-9._-]{1,64}$/, " of letters, digits, '.', '_' or '-'"),
    life: Object.freeze(readLoader(reader, DEFAULT_LIFE)),
    maxStalenessMs,
    l1: reader.raw('l1') === false ? undefined : readNear(reader.nested('l1', NEAR_NEIGHBOURS)),
    leaseMs: reader.duration('lease', 2_000, LEAST_LEASE_MS),
    timeoutMs: reader.duration('timeout', 500, 1),
    maxValueBytes: reader.size('maxValueBytes', MAX_VALUE_BYTES),
    serializer: readSerializer(reader),
    outage: reader.oneOf('outage', 'load', ['load', 'serve']),
    outageTtlMs: reader.duration('outageTtl', maxStalenessMs),
    outageConcurrency: reader.integer('outageConcurrency', 32, 1, 100_000),
  }
  if (resolved.maxValueBytes < 1 || resolved.maxValueBytes > REDIS_VALUE_BYTES)
    reader.mistake('maxValueBytes', "must be from 1 byte to '512mb', the most that Redis takes")
  reader.done()
  return Object.freeze(resolved)
}

function readSerializer(reader: OptionReader): Serializer {
  const given = reader.raw('serializer')
  if (given === undefined) return jsonSerializer
  const { encode, decode } = (given ?? {}) as Partial<Serializer>
  if (typeof encode === 'function' && typeof decode === 'function') return given as Serializer
  reader.mistake('serializer', `must have the functions encode and decode, got ${show(given)}`)
  return jsonSerializer
}

const NEAR_NEIGHBOURS: Neighbours = {
  max: 'maxEntries',
  maxItems: 'maxEntries',
  lruSize: 'maxEntries',
  maxSize: 'maxBytes',
}

function readNear(reader: OptionReader): NonNullable<ResolvedCacheOptions['l1']> {
  const near = {
    maxEntries: reader.integer('maxEntries', 10_000, 1, 10_000_000),
    maxBytes: reader.size('maxBytes', 64 << 20),
  }
  reader.close()
  if (near.maxBytes === 0) reader.mistake('maxBytes', 'must be at least 1; l1: false keeps no copies')
  return near
}

function readLife(reader: OptionReader, defaults: ResolvedLife): Omit<ResolvedLife, 'tags'> {
  const ttlMs = Math.min(LONGEST_MS, reader.duration('ttl', defaults.ttlMs))
  const graceMs = Math.min(LONGEST_MS, reader.duration('grace', defaults.graceMs))
  return { ttlMs, graceMs, jitter: readFraction(reader, 'jitter', defaults.jitter, 0) }
}

function readLoader(reader: OptionReader, defaults: ResolvedLoad): ResolvedLoad {
  const early = reader.raw('early')
  return {
    ...defaults,
    ...readLife(reader, defaults),
    softMs: reader.duration('softTimeout', defaults.softMs),
    hardMs: reader.duration('hardTimeout', defaults.hardMs, 1),
    negativeMs: reader.duration('negativeTtl', defaults.negativeMs),
    early:
      early === false || early === 'random'
        ? early
        : early === undefined
          ? defaults.early
          : readFraction(reader, 'early', 0.5, 0.01, ", 'random' or false"),
  }
}

function readFraction(
  reader: OptionReader,
  name: string,
  fallback: number,
  least: number,
  others = '',
): number {
  const value = reader.raw(name)
  if (value === undefined) return fallback
  if (typeof value === 'number' && value >= least && value <= 0.99) return value
  reader.mistake(name, `must be a number from ${least} to 0.99${others}, got ${show(value)}`)
  return fallback
}

function readTags(reader: OptionReader): readonly string[] {
  const tags = reader.raw('tags')
  if (tags === undefined) return []
  if (Array.isArray(tags) && tags.length <= MAX_TAGS && tags.every(isKey)) return [...new Set(tags)]
  reader.mistake('tags', `must be up to ${MAX_TAGS} texts of up to ${MAX_KEY_LENGTH} characters`)
  return []
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
export function resolveSet(options: SetOptions | undefined, defaults: ResolvedLife): ResolvedLife {
  if (options === undefined) return defaults
  const reader = new OptionReader('cache.set', options, CALL_NEIGHBOURS)
  const life = { ...readLife(reader, defaults), tags: readTags(reader) }
  reader.done()
  return life
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
export function resolveLoad(options: LoadOptions | undefined, defaults: ResolvedLoad): ResolvedLoad {
  if (options === undefined) return defaults
  const reader = new OptionReader('cache.getOrSet', options, CALL_NEIGHBOURS)
  const load = { ...readLoader(reader, defaults), tags: readTags(reader) }
  const signal = reader.raw('signal')
  if (signal !== undefined && !(signal instanceof AbortSignal))
    reader.mistake('signal', `must be an AbortSignal, got ${show(signal)}`)
  reader.done()
  return { ...load, signal: signal as AbortSignal | undefined }
}

/** The TTL of one entry: never longer than asked for. */
export function withJitter(ttlMs: number, jitter: number): number {
  return jitter === 0 ? ttlMs : Math.max(1, Math.round(ttlMs * (1 - jitter * Math.random())))
}

const MAX_KEY_LENGTH = 16_384

/**
 * Two keys with different halves of a surrogate pair would be the same bytes to Redis.
 *
 * @throws SharedStateError `ERR_AS_ONE_CACHE`
 */
export function checkKey(key: unknown, what = 'key'): string {
  if (isKey(key)) return key
  if (typeof key !== 'string') throw keyError(what, `must be a string, got ${show(key)}`)
  if (key.length > MAX_KEY_LENGTH) {
    const advice = `hash what is longer than ${MAX_KEY_LENGTH}`
    throw keyError(what, `has ${key.length} characters; ${advice}: ${show(key)}`)
  }
  throw keyError(what, `has half a surrogate pair: ${show(key)}`)
}

function isKey(key: unknown): key is string {
  return typeof key === 'string' && key.length <= MAX_KEY_LENGTH && key.isWellFormed()
}

function keyError(what: string, problem: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_CACHE', `a cache ${what} ${problem}`)
}
