import type { ByteSize, Duration } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { type Neighbours, OptionReader, show } from '../core/options.ts'

export interface CacheOptions {
  /** Two caches with one name share their entries, on all workers; other names, other entries and their own `clear()`. @default 'main' */
  name?: string
  /** How long an entry lives; 0 stores nothing. @default '5m' */
  ttl?: Duration
  /** No read that begins later than this after a write was confirmed returns what was there before. @default '1s' */
  maxStaleness?: Duration
  /** Copies in this process, or false for none. */
  l1?: NearOptions | false
  /** How long one loader of a key keeps others waiting if its process dies. @default '2s' */
  lease?: Duration
  /** How long a call waits for Redis. @default '500ms' */
  timeout?: Duration
  /** Loaders that run at once in this process while Redis is away. @default 32 */
  outageConcurrency?: number
}

export interface NearOptions {
  /** @default 10,000 */
  maxEntries?: number
  /** Of encoded entries. @default '64mb' */
  maxBytes?: ByteSize
}

/** For one `set`. */
export interface SetOptions {
  /** How long this entry lives; 0 deletes what is there. @default as the cache's */
  ttl?: Duration
}

/** For one `getOrSet`. */
export interface LoadOptions {
  /** How long the loaded entry lives; 0 stores nothing. @default as the cache's */
  ttl?: Duration
  /** Ends this caller's wait, not the load, which others may share. */
  signal?: AbortSignal
}

export interface ResolvedCacheOptions {
  readonly name: string
  readonly ttlMs: number
  readonly maxStalenessMs: number
  readonly l1: { readonly maxEntries: number; readonly maxBytes: number } | undefined
  readonly leaseMs: number
  readonly timeoutMs: number
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
  prefix: 'name, or the namespace option of createShared',
  keyPrefix: 'name, or the namespace option of createShared',
  namespace: 'name, or the namespace option of createShared',
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
}

/** Redis counts further, but a Date does not. */
const LONGEST_MS = 8.64e15
/** Proofs come four times as often. */
const LEAST_STALENESS_MS = 100
const LEAST_LEASE_MS = 100

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveCacheOptions(options: unknown): ResolvedCacheOptions {
  const reader = new OptionReader('sharedCache', options, NEIGHBOURS)
  const resolved = {
    name: reader.string('name', 'main', /^[A-Za-z0-9._-]{1,64}$/, " of letters, digits, '.', '_' or '-'"),
    ttlMs: Math.min(LONGEST_MS, reader.duration('ttl', 300_000)),
    maxStalenessMs: reader.duration('maxStaleness', 1_000, LEAST_STALENESS_MS),
    l1: reader.raw('l1') === false ? undefined : readNear(reader.nested('l1')),
    leaseMs: reader.duration('lease', 2_000, LEAST_LEASE_MS),
    timeoutMs: reader.duration('timeout', 500, 1),
    outageConcurrency: reader.integer('outageConcurrency', 32, 1, 100_000),
  }
  reader.done()
  return Object.freeze(resolved)
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

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
export function resolveSetTtl(options: SetOptions | undefined, fallbackMs: number): number {
  if (options === undefined) return fallbackMs
  const reader = new OptionReader('cache.set', options, CALL_NEIGHBOURS)
  const ttlMs = Math.min(LONGEST_MS, reader.duration('ttl', fallbackMs))
  reader.done()
  return ttlMs
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
export function resolveLoadTtl(options: LoadOptions | undefined, fallbackMs: number): number {
  if (options === undefined) return fallbackMs
  const reader = new OptionReader('cache.getOrSet', options, CALL_NEIGHBOURS)
  const ttlMs = Math.min(LONGEST_MS, reader.duration('ttl', fallbackMs))
  const signal = reader.raw('signal')
  if (signal !== undefined && !(signal instanceof AbortSignal))
    reader.mistake('signal', `must be an AbortSignal, got ${show(signal)}`)
  reader.done()
  return ttlMs
}

const MAX_KEY_LENGTH = 16_384

/**
 * Two keys with different halves of a surrogate pair would be the same bytes to Redis.
 *
 * @throws SharedStateError `ERR_AS_ONE_CACHE`
 */
export function checkKey(key: unknown): string {
  if (typeof key !== 'string') throw keyError(`must be a string, got ${show(key)}`)
  if (key.length > MAX_KEY_LENGTH) {
    throw keyError(`has ${key.length} characters; hash what is longer than ${MAX_KEY_LENGTH}: ${show(key)}`)
  }
  if (/\p{Cs}/u.test(key)) throw keyError(`has half a surrogate pair: ${show(key)}`)
  return key
}

function keyError(what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_CACHE', `a cache key ${what}`)
}
