import { createRequire } from 'node:module'
import type { RedisStore } from 'connect-redis'
import type { RedisClient } from '../redis/client.ts'
import type { SessionRedis } from './availability.ts'
import { type BlobOutcome, BlobSaves, parseBlob } from './blob-saves.ts'
import { isCookieChanged, recordStored } from './fields.ts'
import { changesBetween, type RuleFor } from './merge.ts'
import { Recent } from './recent.ts'
import {
  type Callback,
  cookieState,
  ignore,
  lifetimeMs,
  recordFor,
  type SessionData,
  storedAfter,
  touchIntervalMs,
} from './recorded-store.ts'
import { type Saving, SavingStore } from './saving-store.ts'
import { allKeys, unlessWrongType } from './scan.ts'

export interface BlobStoreOptions {
  readonly redis: SessionRedis
  readonly rules: RuleFor
  /** What connect-redis' keys start with; the plain session id follows. */
  readonly prefix: string
  /** Of sessions whose cookie has no expiry. */
  readonly ttlMs: number
  readonly touchEveryMs: number
  /** How long a save may try when others keep changing the session. */
  readonly timeoutMs: number
  readonly maxBytes: number
}

/** How many sessions' last touches a worker remembers; one it has forgotten is touched once too often. */
const TOUCHES_KEPT = 10_000

/**
 * connect-redis' keys and format, for sessions shared with processes that still run express-session with
 * connect-redis. Its RedisStore reads, touches and deletes; saves are ours.
 */
export class BlobStore extends SavingStore {
  readonly #theirs: RedisStore
  readonly #options: BlobStoreOptions
  readonly #saves: BlobSaves
  /** By session id, when this worker last renewed the expiry, on `performance.now()`'s scale. */
  readonly #touches = new Recent<number>(TOUCHES_KEPT)

  constructor(options: BlobStoreOptions) {
    super(options.maxBytes)
    this.#options = options
    this.#saves = new BlobSaves(options)
    this.#theirs = new (connectRedis().RedisStore)({
      client: clientOf(options.redis),
      prefix: options.prefix,
      serializer: { parse: parseBlob as never, stringify: JSON.stringify },
      ttl: (session) => this.#secondsOf(session),
    })
  }

  override get(sid: string, callback: (error: unknown, session?: SessionData | null) => void): void {
    settle(this.#theirs.get(sid) as Promise<Parsed | null>, (error, found) => {
      if (error || !found) return callback(error, null)
      const { data, blob } = found
      const { cookie } = data
      const record = recordStored(data, sid, blob.fields, cookie && cookieState(cookie))
      record.blob = blob
      callback(null, data)
    })
  }

  protected override save(
    { sid, session, record, fields, cookie, update }: Saving,
    callback: (error: unknown, outcome?: BlobOutcome) => void,
  ): void {
    const seconds = this.#secondsOf(session)
    if (seconds <= 0) {
      this.destroy(sid, (error) => callback(error))
      return
    }
    const state = session.cookie && cookieState(session.cookie)
    const base = record?.blob ? record.stored : record?.pending
    const changes = base && changesBetween(base, fields)
    if (record && !base) record.pending = fields
    this.#saves.add(this.#options.prefix + sid, {
      before: record?.stored && record.blob,
      changes,
      fields,
      update,
      cookie,
      seconds,
      done: (outcome) => {
        const { error, stored, blob } = outcome
        if (record?.pending === fields) record.pending = undefined
        if (stored) {
          this.#touches.set(sid, performance.now())
          // The string others have written too; what this object was like is the base of its next changes.
          if (record) {
            record.stored = storedAfter(record, base, changes, fields)
            Object.assign(record, { blob: blob ?? record.blob, cookie: state })
          }
        } else if (!error && record) record.gone = true
        callback(error, outcome)
      },
    })
  }

  /** Renews the expiry in Redis, but only when `touchEvery` has passed; a cookie that was changed is saved. */
  override touch(sid: string, session: SessionData, callback: Callback = ignore): void {
    const record = recordFor(sid, session)
    if (record?.detached) {
      callback()
      return
    }
    if (record && isCookieChanged(record.cookie, session.cookie as never)) {
      this.set(sid, session, callback)
      return
    }
    const now = performance.now()
    const touchedAt = this.#touches.get(sid) ?? Number.NEGATIVE_INFINITY
    const { ttlMs, touchEveryMs } = this.#options
    if (now - touchedAt < touchIntervalMs(lifetimeMs(session, ttlMs), touchEveryMs)) {
      callback()
      return
    }
    settle(this.#theirs.touch(sid, session), (error) => {
      if (!error) this.#touches.set(sid, now)
      callback(error)
    })
  }

  override destroy(sid: string, callback: Callback = ignore): void {
    this.#saves.drop(this.#options.prefix + sid)
    settle(this.#theirs.destroy(sid), callback)
  }

  /** How many sessions there are; reads every key name. */
  override length(callback: (error: unknown, length?: number) => void): void {
    settle(this.#theirs.length() as Promise<number>, callback)
  }

  /** All sessions, each with its `id`. */
  override all(callback: (error: unknown, sessions?: SessionData[]) => void): void {
    const sessions = (this.#theirs.all() as Promise<(Parsed & { id: string })[]>).then((all) =>
      all.map(({ id, data }) => Object.assign(data, { id })),
    )
    settle(sessions, callback)
  }

  override clear(callback: Callback = ignore): void {
    settle(this.#theirs.clear(), callback)
  }

  /** Whole seconds, rounded up, as connect-redis has them. */
  #secondsOf(session: SessionData): number {
    return Math.ceil(lifetimeMs(session, this.#options.ttlMs) / 1_000)
  }
}

type Parsed = ReturnType<typeof parseBlob>

/** Only here and only now, so that nobody loads connect-redis who does not use this format. */
function connectRedis(): typeof import('connect-redis') {
  return createRequire(import.meta.url)('connect-redis') as typeof import('connect-redis')
}

/** What RedisStore calls, in node-redis' manner because only that knows Clusters; each call answers in time. */
function clientOf(redis: SessionRedis): object {
  const one = <T>(key: string, command: (client: RedisClient) => Promise<T>): Promise<T> =>
    redis.ask(key, command)
  return {
    get: (key: string) => one(key, (client) => client.get(key)),
    expire: (key: string, seconds: number) => one(key, (client) => client.expire(key, seconds)),
    del: (keys: readonly string[]) =>
      keys.length === 1
        ? one(keys[0] as string, (client) => client.unlink(keys[0] as string))
        : redis.run((client) => inChunks(keys, (key) => client.unlink(key))),
    mGet: (keys: readonly string[]) =>
      redis.run((client) => inChunks(keys, (key) => client.get(key).catch(unlessWrongType(null)))),
    async *scanIterator({ MATCH }: { MATCH: string }) {
      yield* await redis.run((client) => allKeys(client, MATCH))
    },
  }
}

/** Key by key, because on a Cluster each may live elsewhere. */
async function inChunks<T>(keys: readonly string[], command: (key: string) => Promise<T>): Promise<T[]> {
  const replies: T[] = []
  for (let i = 0; i < keys.length; i += 500)
    replies.push(...(await Promise.all(keys.slice(i, i + 500).map(command))))
  return replies
}

/** Calls back outside the promise, so that what the callback throws is an uncaught exception. */
function settle<T>(promise: Promise<T>, callback: (error: unknown, result?: T) => void): void {
  promise.then(
    (result) => process.nextTick(callback, null, result),
    (error: unknown) => process.nextTick(callback, error),
  )
}
