import { hash } from 'node:crypto'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { Keys } from '../core/keys.ts'
import type { RedisClient } from '../redis/client.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import { parseBlob } from './blob-saves.ts'
import {
  type CookieState,
  checkSize,
  type Fields,
  fieldsOf,
  isCookieChanged,
  isReserved,
  keepRecord,
  parseField,
  recordStored,
  type SessionRecord,
  type StoredBlob,
} from './fields.ts'
import { type HashOutcome, HashSaves, hashField, sessionKey } from './hash-saves.ts'
import { changesBetween, type RuleFor } from './merge.ts'
import { Recent } from './recent.ts'
import {
  type Callback,
  cookieState,
  detachedError,
  goneError,
  ignore,
  lifetimeMs,
  RecordedStore,
  recordFor,
  type SessionData,
  storedAfter,
  touchIntervalMs,
} from './recorded-store.ts'
import type { Whereabouts } from './revocations.ts'
import { scanKeys } from './scan.ts'
import { DESTROY, expected, MOVE, SAVE } from './scripts.ts'
import type { Sealer } from './seal.ts'
import { refresh } from './session-object.ts'
import { eachOf, type UserIndex } from './user-index.ts'

export interface HashStoreOptions {
  readonly redis: SessionRedis
  readonly keys: Keys
  readonly users: UserIndex
  readonly sealer: Sealer
  readonly rules: RuleFor
  /** Of sessions whose cookie has no expiry. */
  readonly ttlMs: number
  readonly touchEveryMs: number
  readonly timeoutMs: number
  /** 0: none. */
  readonly absoluteTtlMs: number
  readonly maxBytes: number
}

/** A session that has ended, for those who hold something open for it. */
export type OnEnded = (id: string, user: string | undefined) => void

/** `note`: 'rotated' when the id has just been replaced, and whoever still comes with it shall not have the session. */
export type LoadCallback = (error: unknown, session?: SessionData | null, note?: 'rotated') => void

const HASHES_KEPT = 4_096
const MAX_KEPT_LENGTH = 256
/** From id to id to id; nobody does it more often within a grace period. */
const MAX_MOVES = 3

/**
 * express-session's store contract over one Redis hash per session: a field per top-level key, so that requests which
 * change different keys do not undo each other's. Only changes are sent, against the baseline the session was loaded with.
 */
export class HashStore extends RecordedStore {
  readonly #options: HashStoreOptions
  readonly #redis: SessionRedis
  readonly #saves: HashSaves
  /** By session id. */
  readonly #hashes = new Recent<string>(HASHES_KEPT)
  /** Redis' clock minus our monotonic one; our own wall clock until Redis has told its own. */
  #clockOffset = performance.timeOrigin
  /** Called for each session that is destroyed here. */
  onEnded: OnEnded | undefined

  constructor(options: HashStoreOptions) {
    super()
    this.#options = options
    this.#redis = options.redis
    this.#saves = new HashSaves({ ...options, prefix: () => options.keys.prefix('session') })
  }

  override get(sid: string, callback: LoadCallback): void {
    this.#load(sid, this.idOf(sid), 0, callback)
  }

  #load(sid: string, id: string, moves: number, callback: LoadCallback): void {
    const key = this.keyOf(id)
    this.#redis.call(
      key,
      (client) => client.hgetall(key),
      (error, reply) => {
        if (error) return callback(error)
        const target = reply?.['~moved']
        if (target !== undefined) {
          if (reply?.['~sign'] !== 'open' || moves >= MAX_MOVES) return callback(null, null, 'rotated')
          return this.#load(sid, target, moves + 1, callback)
        }
        let session: SessionData | null
        try {
          session = loaded(sid, id, reply as Record<string, string>, this.#options.sealer, moves > 0)
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
    this.#save(sid, session, undefined, (error) => callback(error))
  }

  /** As `set`, with what `run` makes of the session as it is stored by then; that nobody else changes it meanwhile is sure. */
  update(sid: string, session: SessionData, run: (fields: Fields) => Fields, callback: Callback): void {
    const { maxBytes } = this.#options
    const checked = (fields: Fields): Fields => {
      const next = run(fields)
      checkSize(next, maxBytes)
      return next
    }
    this.#save(sid, session, checked, (error, outcome) => {
      if (error) return callback(error)
      if (!outcome?.stored) return callback(goneError())
      if (outcome.stored !== true) refresh(session, outcome.stored)
      callback()
    })
  }

  #save(
    sid: string,
    session: SessionData,
    update: ((fields: Fields) => Fields) | undefined,
    callback: (error: unknown, outcome?: HashOutcome) => void,
  ): void {
    const record = recordFor(sid, session)
    const base = record?.stored ?? record?.pending
    let fields = record?.serialised
    let cookie: string | undefined
    try {
      if (record?.detached) throw detachedError(record)
      fields ??= fieldsOf(session)
      checkSize(fields, this.#options.maxBytes)
      cookie = JSON.stringify(session.cookie)
    } catch (error) {
      process.nextTick(callback, error)
      return
    }
    const saved = fields
    const state = session.cookie && cookieState(session.cookie)
    const isCookieOurs = !record || !base || isCookieChanged(record.cookie, state as CookieState)
    const isTouched = record !== undefined && this.#isDue(record, session)
    const changes = base && changesBetween(base, saved)
    if (record && !base) record.pending = saved
    this.#saves.add(this.keyOf(record?.home ?? this.idOf(sid)), {
      changes,
      fields: saved,
      update,
      texts: record?.texts,
      cookie,
      cookieBefore: isCookieOurs ? undefined : record?.cookieText,
      ttlMs: lifetimeMs(session, this.#options.ttlMs),
      user: record?.user,
      createdAt: record?.createdAt,
      done: (outcome) => {
        const { error, stored, now = Number.NaN } = outcome
        if (record?.pending === saved) record.pending = undefined
        if (error) return callback(error)
        if (!stored) {
          if (record) record.gone = true
        } else {
          this.#clockOffset = now - performance.now()
          if (record) {
            record.stored = storedAfter(record, base, changes, saved)
            Object.assign(record, { touchedAt: now, cookie: state, cookieText: cookie })
            if (this.#options.sealer.seals) keepTexts(record, saved, outcome)
            if (isTouched) this.#renewNote(record, session)
          }
        }
        callback(null, outcome)
      },
    })
  }

  /** Renews the expiry in Redis, but only when `touchEvery` has passed or the cookie itself was changed. */
  override touch(sid: string, session: SessionData, callback: Callback = ignore): void {
    const record = recordFor(sid, session)
    if (record?.detached) {
      callback()
      return
    }
    const state = session.cookie && cookieState(session.cookie)
    const isCookieOurs = !record || isCookieChanged(record.cookie, state as CookieState)
    if (record && !isCookieOurs && !this.#isDue(record, session)) {
      callback()
      return
    }
    const key = this.keyOf(record?.home ?? this.idOf(sid))
    const ttl = String(Math.ceil(lifetimeMs(session, this.#options.ttlMs)))
    const cookie = JSON.stringify(session.cookie)
    const before = isCookieOurs ? '*' : expected(record?.cookieText)
    const args = [key, 'delta', ttl, String(this.#options.absoluteTtlMs), '', cookie, before, '', '']
    this.#redis.call(
      key,
      (client) => runScript<readonly [number]>(client, SAVE, args),
      (error, reply) => {
        if (error) return callback(error)
        const now = reply?.[0] ?? -1
        if (now >= 0) {
          this.#clockOffset = now - performance.now()
          if (record) {
            Object.assign(record, { touchedAt: now, cookie: state, cookieText: cookie })
            this.#renewNote(record, session)
          }
        } else if (now === -1 && record) record.gone = true
        callback(null)
      },
    )
  }

  override destroy(sid: string, callback: Callback = ignore): void {
    this.end(this.idOf(sid)).then(
      () => process.nextTick(callback, null),
      (error: unknown) => process.nextTick(callback, error),
    )
  }

  /** Ends a session by its hashed id, wherever it has moved to; true when there was one. */
  async end(id: string): Promise<boolean> {
    let place = id
    for (let moves = 0; moves <= MAX_MOVES; moves++) {
      const key = this.keyOf(place)
      this.#saves.drop(key)
      const [found, more] = await this.#redis.ask(key, (client) =>
        runScript<readonly [number, string?]>(client, DESTROY, [key]),
      )
      if (found !== 2) {
        if (found === 1) this.onEnded?.(place, more || undefined)
        return found === 1
      }
      place = String(more)
    }
    return false
  }

  /**
   * Stores the session anew under another id, and leaves a sign under the old one for `graceMs`: requests that have
   * loaded it there save it here; those that still come there may read it if the sign is open.
   *
   * Errors: `ERR_AS_ONE_SESSION` when the session was destroyed meanwhile.
   */
  async move(session: SessionData, to: Move): Promise<SessionRecord> {
    const { sid, user, sign, graceMs } = to
    const record = recordFor((session as { id?: string }).id ?? '', session)
    if (record?.detached) throw detachedError(record)
    const old = record?.stored && (record.home ?? this.idOf(record.sid))
    const id = this.idOf(sid)
    const fields = fieldsOf(session)
    const next = recordStored(session, sid, fields)
    Object.assign(next, {
      stored: undefined,
      original: record?.original ?? next.original,
      user,
      createdAt: record?.createdAt,
    })
    try {
      // Noted before it exists and after: whoever ends all sessions of the user finds it or comes before it.
      if (user !== undefined) await this.#options.users.note(user, id, this.#noteMs(session), old)
      await new Promise<void>((resolve, reject) =>
        this.#save(sid, session, undefined, (error) => (error ? reject(error) : resolve())),
      )
      if (user !== undefined) await this.#options.users.note(user, id, this.#noteMs(session), old)
      if (old !== undefined) await this.#leave(old, id, sign, graceMs)
    } catch (error) {
      if (record) keepRecord(session, record) // it goes on as it was
      await this.end(id).catch(ignore) // nobody knows its id
      throw error
    }
    return next
  }

  async #leave(old: string, id: string, sign: Move['sign'], graceMs: number): Promise<void> {
    const key = this.keyOf(old)
    const [state, place] = await this.#redis.ask(key, (client) =>
      runScript<readonly [number, string?]>(client, MOVE, [key, id, sign, graceMs]),
    )
    if (state === 1) return
    // Another request has moved it at the same time: both may go on, each client keeps the cookie it gets last.
    const alive = place !== undefined && (await this.isAlive(place))
    if (state === 0 || (sign === 'open' && !alive)) throw goneError()
  }

  /** Stores a session that came from elsewhere, unless it is here already; false if it is. */
  async create(sid: string, session: SessionData, fields: Fields): Promise<boolean> {
    const id = this.idOf(sid)
    const key = this.keyOf(id)
    const ttl = String(Math.ceil(lifetimeMs(session, this.#options.ttlMs)))
    const args = [
      key,
      'create',
      ttl,
      String(this.#options.absoluteTtlMs),
      '',
      JSON.stringify(session.cookie),
      '*',
      '',
      '',
    ]
    for (const [field, json] of fields)
      args.push(hashField(field), '*', this.#options.sealer.seal(id, field, json))
    const [now] = await this.#redis.ask(key, (client) => runScript<readonly [number]>(client, SAVE, args))
    return now >= 0
  }

  /** Takes over what was changed elsewhere after `create()`. */
  async catchUp(sid: string, session: SessionData, before: Fields, text: string): Promise<StoredBlob> {
    const { blob } = parseBlob(text)
    await new Promise<void>((resolve, reject) => {
      this.#saves.add(this.keyOf(this.idOf(sid)), {
        changes: changesBetween(before, blob.fields),
        fields: blob.fields,
        update: (fields) => fields, // on what is stored, whose sealed texts nobody here knows
        texts: undefined,
        cookie: JSON.stringify(session.cookie),
        cookieBefore: undefined,
        ttlMs: lifetimeMs(session, this.#options.ttlMs),
        user: undefined,
        createdAt: undefined,
        done: ({ error }) => (error ? reject(error) : resolve()),
      })
    })
    return blob
  }

  /** A session by its hashed id, for whoever lists them; undefined when there is none. */
  async look(
    id: string,
  ): Promise<{ id: string; createdAt: Date; touchedAt: Date; data: object } | undefined> {
    const key = this.keyOf(id)
    const reply = await this.#redis.ask(key, (client) => client.hgetall(key))
    const session = loaded('', id, withoutSign(reply), this.#options.sealer)
    if (!session) return undefined
    const { cookie: _, ...data } = session
    const [createdAt, touchedAt] = [reply['~created'], reply['~touched']].map((at) => new Date(Number(at)))
    return { id, createdAt: createdAt as Date, touchedAt: touchedAt as Date, data }
  }

  /** Where each of these hashed ids leads. */
  where(ids: readonly string[]): Promise<Whereabouts[]> {
    return this.#redis.run((client) =>
      eachOf(ids, async (id) => {
        const [moved, sign, made] = await client.hmget(this.keyOf(id), '~moved', '~sign', '~created')
        if (moved && sign === 'open') return { movedTo: moved }
        return made ? 'here' : 'gone'
      }),
    )
  }

  async isAlive(id: string): Promise<boolean> {
    const key = this.keyOf(id)
    return (await this.#redis.ask(key, (client) => client.exists(key))) === 1
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
            const id = key.slice(this.#options.keys.prefix('session').length)
            const session = loaded('', id, withoutSign(replies[index] ?? {}), this.#options.sealer)
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

  #isDue(record: SessionRecord, session: SessionData): boolean {
    const { ttlMs, touchEveryMs } = this.#options
    const every = touchIntervalMs(lifetimeMs(session, ttlMs), touchEveryMs)
    const age = performance.now() + this.#clockOffset - record.touchedAt
    // Touched in the future: our clock is wrong. Not a number: never stamped. One touch too many costs little.
    return !(age < every && age > -1_000)
  }

  /** The index must outlive the session, which is renewed more often. Late or lost once, it comes again. */
  #renewNote({ user, home, sid }: SessionRecord, session: SessionData): void {
    if (user === undefined) return
    this.#options.users.note(user, home ?? this.idOf(sid), this.#noteMs(session)).catch((error: unknown) => {
      if (channels.session.hasSubscribers) channels.session.publish({ event: 'touch-failed', error })
    })
  }

  #noteMs(session: SessionData): number {
    const { ttlMs, touchEveryMs } = this.#options
    const life = lifetimeMs(session, ttlMs)
    return Math.ceil(life + 2 * touchIntervalMs(life, touchEveryMs) + 60_000)
  }

  get #pattern(): string {
    return `${this.#options.keys.prefix('session')}*`
  }

  /** What stands for a session id wherever it could be read. */
  idOf(sid: string): string {
    const known = this.#hashes.get(sid)
    const hashed = known ?? hash('sha256', sid, 'base64url')
    if (known === undefined && sid.length <= MAX_KEPT_LENGTH) this.#hashes.set(sid, hashed)
    return hashed
  }

  keyOf(id: string): string {
    return this.#options.keys.key('session', id)
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

export interface Move {
  /** The new session id. */
  readonly sid: string
  readonly user: string | undefined
  /** Whether the old id still opens the session meanwhile: not when it has gained rights. */
  readonly sign: 'open' | 'closed'
  readonly graceMs: number
}

/** The session in a hash, null when there is none; unknown `~` fields belong to newer versions of this package. */
export function loaded(
  sid: string,
  id: string,
  reply: Readonly<Record<string, string>>,
  sealer: Sealer,
  hasMoved = false,
): SessionData | null {
  const names = Object.keys(reply)
  if (names.length === 0) return null
  const session: Record<string, unknown> = {}
  const fields = new Map<string, string>()
  let texts: Map<string, string> | undefined
  for (const name of names) {
    const text = reply[name] as string
    if (name === 'cookie') {
      session.cookie = parseField(name, text)
      continue
    }
    const key = sessionKey(name)
    if (key === undefined || isReserved(key)) continue
    const json = sealer.open(id, key, text)
    if (json !== text) {
      texts ??= new Map()
      texts.set(key, text)
    }
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
  record.cookieText = reply.cookie
  record.touchedAt = Number(reply['~touched'])
  const createdAt = Number(reply['~created'])
  if (createdAt > 0) record.createdAt = createdAt
  record.user = reply['~user']
  record.texts = texts
  if (hasMoved) record.home = id
  return session as unknown as SessionData
}

/** Fields where others' changes went in are remembered as unknown: the next save will meet them again. */
function keepTexts(record: SessionRecord, saved: Fields, { written }: HashOutcome): void {
  const texts = new Map<string, string>()
  for (const field of saved.keys()) {
    const now = written?.get(field)
    const text = now ? (now.json === saved.get(field) ? now.text : '') : record.texts?.get(field)
    if (text !== undefined) texts.set(field, text)
  }
  record.texts = texts
}

/** What a session that has moved leaves behind is none. */
function withoutSign(reply: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return reply['~moved'] === undefined ? reply : {}
}

function unlessWrongType(error: unknown): Record<string, string> {
  if (messageOf(error).startsWith('WRONGTYPE')) return {}
  throw error
}
