import { createRequire } from 'node:module'
import type { RedisStore } from 'connect-redis'
import { messageOf } from '../core/errors.ts'
import type { RedisClient } from '../redis/client.ts'
import type { SessionRedis } from './availability.ts'
import { BlobSaves, parseBlob } from './blob-saves.ts'
import {
  changesBetween,
  fieldsOf,
  isCookieChanged,
  recordOf,
  recordStored,
  type SessionRecord,
} from './fields.ts'
import { Recent } from './recent.ts'
import {
  type Callback,
  cookieState,
  ignore,
  lifetimeMs,
  RecordedStore,
  type SessionData,
  touchIntervalMs,
} from './recorded-store.ts'
import { scanKeys } from './scan.ts'

export interface BlobStoreOptions {
  readonly redis: SessionRedis
  /** What connect-redis' keys start with; the plain session id follows. */
  readonly prefix: string
  /** Of sessions whose cookie has no expiry. */
  readonly ttlMs: number
  readonly touchEveryMs: number
  /** How long a save may try when others keep changing the session. */
  readonly timeoutMs: number
}

/** How many sessions' last touches a worker remembers; one it has forgotten is touched once too often. */
const TOUCHES_KEPT = 10_000

/**
 * connect-redis' keys and format, for sessions shared with processes that still run express-session with
 * connect-redis. Its RedisStore reads, touches and deletes; saves are ours.
 */
export class BlobStore extends RecordedStore {
  readonly #theirs: RedisStore
  readonly #prefix: string
  readonly #ttlMs: number
  readonly #touchEveryMs: number
  readonly #saves: BlobSaves
  /** By session id, when this worker last renewed the expiry, on `performance.now()`'s scale. */
  readonly #touches = new Recent<number>(TOUCHES_KEPT)

  constructor({ redis, prefix, ttlMs, touchEveryMs, timeoutMs }: BlobStoreOptions) {
    super()
    this.#prefix = prefix
    this.#ttlMs = ttlMs
    this.#touchEveryMs = touchEveryMs
    this.#saves = new BlobSaves(redis, timeoutMs)
    this.#theirs = new (connectRedis().RedisStore)({
      client: clientOf(redis),
      prefix,
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

  /**
   * Writes the changes of a session that `get()` gave or an earlier `set()` stored; replaces the whole session otherwise.
   * A session that has been destroyed meanwhile stays destroyed: the call succeeds, its changes are dropped.
   *
   * Errors: `ERR_AS_ONE_SESSION` with status 503 when others kept changing the session for `timeout`.
   */
  override set(sid: string, session: SessionData, callback: Callback = ignore): void {
    const record = recordFor(sid, session)
    let fields = record?.serialised
    let cookie: string | undefined
    try {
      fields ??= fieldsOf(session)
      cookie = JSON.stringify(session.cookie)
    } catch (error) {
      process.nextTick(callback, error)
      return
    }
    const seconds = this.#secondsOf(session)
    if (seconds <= 0) {
      this.destroy(sid, callback)
      return
    }
    const saved = fields
    const state = session.cookie && cookieState(session.cookie)
    const delta = record?.blob &&
      record.stored && { base: record.blob, changes: changesBetween(record.stored, saved) }
    this.#saves.add(this.#prefix + sid, {
      delta,
      fields: saved,
      cookie,
      seconds,
      done: ({ error, stored }) => {
        if (stored) {
          this.#touches.set(sid, performance.now())
          if (record) Object.assign(record, { blob: stored, stored: saved, cookie: state })
        } else if (!error && record) record.gone = true
        callback(error)
      },
    })
  }

  /** Renews the expiry in Redis, but only when `touchEvery` has passed; a cookie that was changed is saved. */
  override touch(sid: string, session: SessionData, callback: Callback = ignore): void {
    const record = recordFor(sid, session)
    if (record && isCookieChanged(record.cookie, session.cookie as never)) {
      this.set(sid, session, callback)
      return
    }
    const now = performance.now()
    const touchedAt = this.#touches.get(sid) ?? Number.NEGATIVE_INFINITY
    if (now - touchedAt < touchIntervalMs(lifetimeMs(session, this.#ttlMs), this.#touchEveryMs)) {
      callback()
      return
    }
    settle(this.#theirs.touch(sid, session), (error) => {
      if (!error) this.#touches.set(sid, now)
      callback(error)
    })
  }

  override destroy(sid: string, callback: Callback = ignore): void {
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
    return Math.ceil(lifetimeMs(session, this.#ttlMs) / 1_000)
  }
}

type Parsed = ReturnType<typeof parseBlob>

/** Only here and only now, so that nobody loads connect-redis who does not use this format. */
function connectRedis(): typeof import('connect-redis') {
  return createRequire(import.meta.url)('connect-redis') as typeof import('connect-redis')
}

/** What RedisStore calls, in node-redis' manner because only that knows Clusters; each call answers in time. */
function clientOf(redis: SessionRedis): object {
  const one = <T>(command: (client: RedisClient) => Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      redis.call(command, (error, reply) => (error ? reject(error) : resolve(reply as T)))
    })
  return {
    get: (key: string) => one((client) => client.get(key)),
    expire: (key: string, seconds: number) => one((client) => client.expire(key, seconds)),
    del: (keys: readonly string[]) =>
      keys.length === 1
        ? one((client) => client.unlink(keys[0] as string))
        : redis.run((client) => inChunks(keys, (key) => client.unlink(key))),
    mGet: (keys: readonly string[]) =>
      redis.run((client) => inChunks(keys, (key) => client.get(key).catch(unlessWrongType))),
    async *scanIterator({ MATCH }: { MATCH: string }) {
      yield* await redis.run(async (client) => {
        const found = new Set<string>()
        for await (const keys of scanKeys(client, MATCH)) for (const key of keys) found.add(key)
        return found
      })
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

function recordFor(sid: string, session: SessionData): SessionRecord | undefined {
  const record = recordOf(session)
  return record?.sid === sid ? record : undefined
}

function unlessWrongType(error: unknown): null {
  if (messageOf(error).startsWith('WRONGTYPE')) return null
  throw error
}

/** Calls back outside the promise, so that what the callback throws is an uncaught exception. */
function settle<T>(promise: Promise<T>, callback: (error: unknown, result?: T) => void): void {
  promise.then(
    (result) => process.nextTick(callback, null, result),
    (error: unknown) => process.nextTick(callback, error),
  )
}
