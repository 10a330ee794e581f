import expressSession from 'express-session'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'

/** A session's top-level keys and the JSON of their values; without the cookie. */
export type Fields = ReadonlyMap<string, string>

/** What this process knows about one session object; it lives and dies with that object. */
export interface SessionRecord {
  readonly sid: string
  /** As loaded; empty for a new session. "Modified" means different from this. */
  readonly original: Fields
  /** What Redis holds as far as we know, the baseline of the next save; undefined: never stored. */
  stored: Fields | undefined
  /** What is being stored for the first time: the baseline of saves that do not wait for that. */
  pending: Fields | undefined
  /** The cookie as loaded or last saved. */
  cookie: CookieState | undefined
  /** The cookie's JSON as it lies in Redis. */
  cookieText: string | undefined
  /** Redis' own time in ms when the session was last written or touched. */
  touchedAt: number
  /** Redis' own time in ms when the session was first stored. */
  createdAt: number | undefined
  /** Who has logged in. */
  user: string | undefined
  /** Hashed id it lies under, when that is not its own: it has been given another one, and this request came with the old. */
  home: string | undefined
  /** What the fields look like in Redis, when that is not their JSON. */
  texts: Map<string, string> | undefined
  /** Why it is never stored and gets no cookie. */
  detached: 'unavailable' | 'rotated' | undefined
  /** A save or a touch found no session: destroyed elsewhere, or expired. */
  gone: boolean
  /** Fields the middleware has just serialised, for the `set()` it is about to call in the same tick. */
  serialised: Fields | undefined
  /** Format 'blob': the text in Redis as we last saw it, which the next save compares with. */
  blob: StoredBlob | undefined
}

/** A session stored as one string, and its fields. */
export interface StoredBlob {
  readonly text: string
  readonly fields: Fields
}

/** The parts of a session cookie that applications change; `expires` moves by itself. */
export type CookieState = Readonly<Partial<Record<(typeof COOKIE_STATE)[number], unknown>>>

const COOKIE_STATE = [
  'originalMaxAge',
  'secure',
  'httpOnly',
  'domain',
  'path',
  'sameSite',
  'partitioned',
  'priority',
] as const

const NONE: Fields = new Map()

/**
 * Keeps the record in a private field stamped on the session: nobody sees it and no copy carries it, as with a
 * WeakMap, whose two entries per request cost the garbage collector more than the rest of the middleware.
 */
class Stamped extends (function stamp(session: object) {
  return session
} as unknown as new (
  session: object,
) => object) {
  #record: SessionRecord | undefined

  static put(session: object, record: SessionRecord): void {
    const stamped = #record in session ? session : new Stamped(session)
    ;(stamped as Stamped).#record = record
  }

  static get(session: object): SessionRecord | undefined {
    return #record in session ? session.#record : undefined
  }
}

export function recordOf(session: object): SessionRecord | undefined {
  return Stamped.get(session)
}

export function keepRecord(session: object, record: SessionRecord): void {
  Stamped.put(session, record)
}

export function recordNew(session: object, sid: string): SessionRecord {
  return record(session, sid, NONE, undefined, undefined)
}

export function recordStored(
  session: object,
  sid: string,
  fields: Fields,
  cookie?: CookieState,
): SessionRecord {
  return record(session, sid, fields, fields, cookie)
}

function record(
  session: object,
  sid: string,
  original: Fields,
  stored: Fields | undefined,
  cookie: CookieState | undefined,
): SessionRecord {
  const made: SessionRecord = {
    sid,
    original,
    stored,
    pending: undefined,
    cookie,
    cookieText: undefined,
    touchedAt: Number.NaN,
    createdAt: undefined,
    user: undefined,
    home: undefined,
    texts: undefined,
    detached: undefined,
    gone: false,
    serialised: undefined,
    blob: undefined,
  }
  Stamped.put(session, made)
  return made
}

/**
 * Serialises every field once.
 *
 * @throws SharedStateError `ERR_AS_ONE_SESSION` naming the field that JSON cannot hold (a cycle, a BigInt)
 */
export function fieldsOf(session: object): Fields {
  const fields = new Map<string, string>()
  for (const key of Object.keys(session)) {
    if (isReserved(key)) {
      if (OUR_METHODS.includes(key)) throw taken(key)
      continue
    }
    let json: string | undefined
    try {
      json = JSON.stringify((session as Record<string, unknown>)[key])
    } catch (error) {
      throw new SharedStateError(
        'ERR_AS_ONE_SESSION',
        `session field ${show(key)} cannot be stored as JSON: ${messageOf(error)}`,
        { cause: error },
      )
    }
    if (json !== undefined) fields.set(key, json)
  }
  return fields
}

/** As express-session's methods, these cannot be fields; nobody who used the name before shall find out by losing data. */
const OUR_METHODS = ['update', 'incr']

function taken(key: string): SharedStateError {
  return new SharedStateError(
    'ERR_AS_ONE_SESSION',
    `session field ${show(key)} cannot be stored: session.${key}() is a method; choose another name`,
  )
}

/** @throws SharedStateError `ERR_AS_ONE_SESSION` that names the largest field */
export function checkSize(fields: Fields, maxBytes: number): void {
  let bytes = 0
  let [largest, most] = ['', 0]
  for (const [key, json] of fields) {
    const size = key.length + Buffer.byteLength(json)
    bytes += size
    if (size > most) [largest, most] = [key, size]
  }
  if (bytes <= maxBytes) return
  throw new SharedStateError(
    'ERR_AS_ONE_SESSION',
    `the session has ${bytes} bytes, more than maxBytes allows (${maxBytes}); its largest field is ${show(largest)} with ${most}`,
  )
}

export function isChanged(base: Fields, now: Fields): boolean {
  if (base.size !== now.size) return true
  for (const [key, json] of now) if (base.get(key) !== json) return true
  return false
}

/** Whether the application has changed the cookie itself, which no field shows. */
export function isCookieChanged(before: CookieState | undefined, now: CookieState): boolean {
  if (!before) return true
  for (const name of COOKIE_STATE) {
    const [a, b] = [before[name], now[name]]
    if (a === b || (a == null && b == null)) continue
    // express-session derives originalMaxAge from two looks at the clock, so it drifts by a millisecond.
    if (typeof a === 'number' && typeof b === 'number' && Math.abs(a - b) <= 10) continue
    return true
  }
  return false
}

/** Names that express-session's Session never takes from stored data: its methods, `id`, `req`, `__proto__` …; and the cookie. */
export function isReserved(key: string): boolean {
  return (
    key === 'cookie' ||
    key === 'id' ||
    key === 'req' ||
    OUR_METHODS.includes(key) ||
    key in expressSession.Session.prototype
  )
}

/**
 * Parses one stored value as data only: `__proto__` keys, and `constructor` keys that carry a `prototype`, are dropped.
 *
 * @throws SharedStateError `ERR_AS_ONE_SESSION` when it is no JSON
 */
export function parseField(key: string, json: string): unknown {
  return parseStored(json, () => `field ${show(key)}`)
}

/** As `parseField`, for any stored text; `what` names it in the error. */
export function parseStored(json: string, what: () => string): unknown {
  try {
    // Escapes could spell the same names; looking is far cheaper than a reviver for every value.
    return DANGEROUS.test(json) ? JSON.parse(json, withoutPrototypes) : JSON.parse(json)
  } catch (error) {
    throw new SharedStateError(
      'ERR_AS_ONE_SESSION',
      `the stored session is corrupted: ${what()} is no JSON (${messageOf(error)})`,
      { cause: error },
    )
  }
}

const DANGEROUS = /__proto__|constructor|\\u/

function withoutPrototypes(key: string, value: unknown): unknown {
  if (key === '__proto__') return undefined
  if (
    key === 'constructor' &&
    typeof value === 'object' &&
    value !== null &&
    Object.hasOwn(value, 'prototype')
  ) {
    return undefined
  }
  return value
}
