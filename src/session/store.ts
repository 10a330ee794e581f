import { hash } from 'node:crypto'
import { channels } from '../core/channels.ts'
import type { Keys } from '../core/keys.ts'
import type { RedisClient } from '../redis/client.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import { parseBlob } from './blob-saves.ts'
import {
  type CookieState,
  type Fields,
  isCookieChanged,
  type SessionRecord,
  type StoredBlob,
} from './fields.ts'
import { type HashOutcome, HashSaves } from './hash-saves.ts'
import { changesBetween, type RuleFor } from './merge.ts'
import { Recent } from './recent.ts'
import {
  type Callback,
  cookieState,
  goneError,
  ignore,
  lifetimeMs,
  recordFor,
  type SessionData,
  storedAfter,
  touchIntervalMs,
} from './recorded-store.ts'
import type { Whereabouts } from './revocations.ts'
import { type Saving, SavingStore } from './saving-store.ts'
import { allKeys, scanKeys } from './scan.ts'
import { DESTROY, MOVE, SAVE } from './scripts.ts'
import type { Sealer } from './seal.ts'
import { allHashes, hashField, keepTexts, loaded, withoutSign } from './stored-hash.ts'
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
export class HashStore extends SavingStore {
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
    super(options.maxBytes)
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

  protected override save(
    { sid, session, record, fields, cookie, update }: Saving,
    callback: (error: unknown, outcome?: HashOutcome) => void,
  ): void {
    const base = record?.stored ?? record?.pending
    const state = session.cookie && cookieState(session.cookie)
    const isCookieOurs = !record || !base || isCookieChanged(record.cookie, state as CookieState)
    const isTouched = record !== undefined && this.#isDue(record, session)
    const changes = base && changesBetween(base, fields)
    if (record && !base) record.pending = fields
    this.#saves.add(this.keyOf(record?.home ?? this.idOf(sid)), {
      changes,
      fields,
      update,
      texts: record?.texts,
      cookie,
      cookieBefore: isCookieOurs ? undefined : record?.cookieText,
      ttlMs: lifetimeMs(session, this.#options.ttlMs),
      user: record?.user,
      createdAt: record?.createdAt,
      done: (outcome) => {
        const { error, stored, now = Number.NaN } = outcome
        if (record?.pending === fields) record.pending = undefined
        if (error) return callback(error)
        if (!stored) {
          if (record) record.gone = true
        } else {
          this.#clockOffset = now - performance.now()
          if (record) {
            record.stored = storedAfter(record, base, changes, fields)
            Object.assign(record, { touchedAt: now, cookie: state, cookieText: cookie })
            if (this.#options.sealer.seals) keepTexts(record, fields, outcome.written)
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
    const cookie = JSON.stringify(session.cookie)
    const args = this.#saves.head(key, 'delta', {
      ttlMs: lifetimeMs(session, this.#options.ttlMs),
      cookie,
      cookieBefore: isCookieOurs ? undefined : record?.cookieText,
    })
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
   * Leaves a sign under the id `old` for `graceMs`: requests that have loaded the session there save it under `id`; those
   * that still come there may read it if the sign is open.
   *
   * Errors: `ERR_AS_ONE_SESSION` when the session was destroyed meanwhile.
   */
  async leave(old: string, id: string, sign: 'open' | 'closed', graceMs: number): Promise<void> {
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
    const ttlMs = lifetimeMs(session, this.#options.ttlMs)
    const args = this.#saves.head(key, 'create', { ttlMs, cookie: JSON.stringify(session.cookie) })
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
    this.#overAll(callback, async (client) => (await allKeys(client, this.#pattern)).size)
  }

  /** All readable sessions, without their ids: Redis knows only the ids' hashes. */
  override all(callback: (error: unknown, sessions?: SessionData[]) => void): void {
    const { keys, sealer } = this.#options
    this.#overAll(callback, (client) => allHashes(client, keys.prefix('session'), sealer))
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
    this.note(user, home ?? this.idOf(sid), session).catch((error: unknown) => {
      if (channels.session.hasSubscribers) channels.session.publish({ event: 'touch-failed', error })
    })
  }

  /** Notes a session for its user, for longer than it lives; `forgets` is the one whose place it takes. */
  note(user: string, id: string, session: SessionData, forgets?: string): Promise<void> {
    const { users, ttlMs, touchEveryMs } = this.#options
    const life = lifetimeMs(session, ttlMs)
    return users.note(user, id, life + 2 * touchIntervalMs(life, touchEveryMs) + 60_000, forgets)
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
