import { hash } from 'node:crypto'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { Keys } from '../core/keys.ts'
import type { RedisClient } from '../redis/client.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import {
  type CookieState,
  changesBetween,
  fieldsOf,
  isCookieChanged,
  isReserved,
  parseField,
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
import { SAVE } from './scripts.ts'

export interface HashStoreOptions {
  readonly redis: SessionRedis
  readonly keys: Keys
  /** Of sessions whose cookie has no expiry. */
  readonly ttlMs: number
  readonly touchEveryMs: number
}

const HASHES_KEPT = 4_096
const MAX_KEPT_LENGTH = 256

/**
 * express-session's store contract over one Redis hash per session: a field per top-level key, so that requests which
 * change different keys do not undo each other's. Only changes are sent, against the baseline the session was loaded with.
 */
export class HashStore extends RecordedStore {
  readonly #redis: SessionRedis
  readonly #keys: Keys
  readonly #ttlMs: number
  readonly #touchEveryMs: number
  /** By session id. */
  readonly #hashes = new Recent<string>(HASHES_KEPT)
  /** Redis' clock minus our monotonic one; our own wall clock until Redis has told its own. */
  #clockOffset = performance.timeOrigin

  constructor({ redis, keys, ttlMs, touchEveryMs }: HashStoreOptions) {
    super()
    this.#redis = redis
    this.#keys = keys
    this.#ttlMs = ttlMs
    this.#touchEveryMs = touchEveryMs
  }

  override get(sid: string, callback: (error: unknown, session?: SessionData | null) => void): void {
    this.#redis.call(
      (client) => client.hgetall(this.#keyOf(sid)),
      (error, reply) => {
        if (error) return callback(error)
        let session: SessionData | null
        try {
          session = loaded(sid, reply as Record<string, string>)
        } catch (corrupted) {
          return callback(corrupted)
        }
        callback(null, session)
      },
    )
  }

  /**
   * Writes the changes of a session that `get()` gave or an earlier `set()` stored; replaces the whole session otherwise.
   * A session that has been destroyed meanwhile stays destroyed: the call succeeds, its changes are dropped.
   */
  override set(sid: string, session: SessionData, callback: Callback = ignore): void {
    const known = recordOf(session)
    const record = known?.sid === sid ? known : undefined
    const base = record?.stored
    let fields = record?.serialised
    const args: string[] = []
    try {
      fields ??= fieldsOf(session)
      const { set, removed } = base ? changesBetween(base, fields) : { set: entriesOf(fields), removed: [] }
      const cookie = JSON.stringify(session.cookie)
      args.push(this.#keyOf(sid), base ? 'delta' : 'new', this.#ttlOf(session))
      args.push(String(removed.length + (cookie === undefined ? 1 : 0)), ...removed.map(hashField))
      if (cookie === undefined) args.push('cookie')
      for (let i = 0; i < set.length; i += 2) args.push(hashField(set[i] as string), set[i + 1] as string)
      if (cookie !== undefined) args.push('cookie', cookie)
    } catch (error) {
      process.nextTick(callback, error)
      return
    }
    const saved = fields
    this.#write(args, record, session, callback, () => {
      if (record) record.stored = saved
    })
  }

  /** Renews the expiry in Redis, but only when `touchEvery` has passed or the cookie itself was changed. */
  override touch(sid: string, session: SessionData, callback: Callback = ignore): void {
    const known = recordOf(session)
    const record = known?.sid === sid ? known : undefined
    if (record && !this.#isTouchDue(record, session)) {
      callback()
      return
    }
    const ttl = this.#ttlOf(session)
    this.#write(
      [this.#keyOf(sid), 'delta', ttl, '0', 'cookie', JSON.stringify(session.cookie)],
      record,
      session,
      callback,
    )
  }

  override destroy(sid: string, callback: Callback = ignore): void {
    this.#redis.call(
      (client) => client.unlink(this.#keyOf(sid)),
      (error) => callback(error),
    )
  }

  /** How many sessions there are; reads every key name. */
  override length(callback: (error: unknown, length?: number) => void): void {
    this.#overAll(callback, async (client) => {
      const found = new Set<string>() // SCAN may name a key twice
      for await (const keys of scanKeys(client, this.#pattern)) for (const key of keys) found.add(key)
      return found.size
    })
  }

  /** All readable sessions, without their ids: Redis knows only the ids' hashes. */
  override all(callback: (error: unknown, sessions?: SessionData[]) => void): void {
    this.#overAll(callback, async (client) => {
      const sessions = new Map<string, SessionData>()
      for await (const keys of scanKeys(client, this.#pattern)) {
        const replies = await Promise.all(keys.map((key) => client.hgetall(key).catch(unlessWrongType)))
        keys.forEach((key, index) => {
          try {
            const session = loaded('', replies[index] ?? {})
            if (session) sessions.set(key, session)
          } catch (error) {
            channels.session.publish({ event: 'unreadable', key, error })
          }
        })
      }
      return [...sessions.values()]
    })
  }

  override clear(callback: Callback = ignore): void {
    this.#overAll(callback, async (client) => {
      for await (const keys of scanKeys(client, this.#pattern))
        await Promise.all(keys.map((key) => client.unlink(key)))
    })
  }

  #write(
    args: string[],
    record: SessionRecord | undefined,
    session: SessionData,
    callback: Callback,
    onStored?: () => void,
  ): void {
    const cookie = session.cookie && cookieState(session.cookie)
    this.#redis.call(
      (client) => runScript<number>(client, SAVE, args),
      (error, now = -1) => {
        if (error) return callback(error)
        if (now < 0) {
          if (record) record.gone = true
          if (onStored && channels.session.hasSubscribers) {
            channels.session.publish({ event: 'conflict', reason: 'gone', key: args[0] })
          }
          return callback(null)
        }
        this.#clockOffset = now - performance.now()
        if (record) {
          record.touchedAt = now
          record.cookie = cookie
        }
        onStored?.()
        callback(null)
      },
    )
  }

  #isTouchDue(record: SessionRecord, session: SessionData): boolean {
    const every = touchIntervalMs(lifetimeMs(session, this.#ttlMs), this.#touchEveryMs)
    const age = performance.now() + this.#clockOffset - record.touchedAt
    // Touched in the future: our clock is wrong. Not a number: never stamped. One touch too many costs little.
    return !(age < every && age > -1_000) || isCookieChanged(record.cookie, session.cookie as CookieState)
  }

  /** Milliseconds for PEXPIRE, so no clock but ours and only for a difference. */
  #ttlOf(session: SessionData): string {
    return String(Math.ceil(lifetimeMs(session, this.#ttlMs)))
  }

  get #pattern(): string {
    return `${this.#keys.prefix('session')}*`
  }

  #keyOf(sid: string): string {
    const known = this.#hashes.get(sid)
    const hashed = known ?? hash('sha256', sid, 'base64url')
    if (known === undefined && sid.length <= MAX_KEPT_LENGTH) this.#hashes.set(sid, hashed)
    return this.#keys.key('session', hashed)
  }

  #overAll<T>(
    callback: (error: unknown, result?: T) => void,
    operation: (client: RedisClient) => Promise<T>,
  ): void {
    this.#redis.run(operation).then(
      (result) => process.nextTick(callback, null, result),
      (error: unknown) => process.nextTick(callback, error),
    )
  }
}

/** The session in a hash, null when there is none; unknown `~` fields belong to newer versions of this package. */
function loaded(sid: string, reply: Readonly<Record<string, string>>): SessionData | null {
  const names = Object.keys(reply)
  if (names.length === 0) return null
  const session: Record<string, unknown> = {}
  const fields = new Map<string, string>()
  for (const name of names) {
    const json = reply[name] as string
    if (name === 'cookie') {
      session.cookie = parseField(name, json)
      continue
    }
    const key = sessionKey(name)
    if (key === undefined || isReserved(key)) continue
    session[key] = parseField(key, json)
    fields.set(key, json)
  }
  const { cookie } = session
  const record = recordStored(
    session,
    sid,
    fields,
    typeof cookie === 'object' && cookie !== null ? cookie : undefined,
  )
  record.touchedAt = Number(reply['~touched'])
  return session as unknown as SessionData
}

/** Fields that start with `~` are ours, so the application's are written with a second one. */
function hashField(key: string): string {
  return key.startsWith('~') ? `~${key}` : key
}

function sessionKey(field: string): string | undefined {
  if (!field.startsWith('~')) return field
  return field.startsWith('~~') ? field.slice(1) : undefined
}

function entriesOf(fields: ReadonlyMap<string, string>): string[] {
  return [...fields].flat()
}

function unlessWrongType(error: unknown): Record<string, string> {
  if (messageOf(error).startsWith('WRONGTYPE')) return {}
  throw error
}
