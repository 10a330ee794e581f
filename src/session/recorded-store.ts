import expressSession from 'express-session'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { Cookie } from './cookie.ts'
import {
  type CookieState,
  type Fields,
  keepRecord,
  recordNew,
  recordOf,
  type SessionRecord,
} from './fields.ts'
import type { Changes } from './merge.ts'
import { SessionObject } from './session-object.ts'

export type SessionData = expressSession.SessionData
export type Callback = (error?: unknown) => void
type Request = Parameters<expressSession.Store['createSession']>[0]

/** What our stores have in common: `get()` gives data with a record, and the Session made of it goes on with that. */
export abstract class RecordedStore extends expressSession.Store {
  /** Inflates what `get()` gave and keeps its baseline with the new Session. */
  override createSession(req: Request, data: SessionData): expressSession.Session & SessionData {
    let session: expressSession.Session & SessionData
    const record = recordOf(data)
    try {
      const expires: unknown = data.cookie.expires
      const { originalMaxAge } = data.cookie
      const cookie = new Cookie(data.cookie)
      if (typeof expires === 'string') cookie.expires = new Date(expires)
      cookie.originalMaxAge = originalMaxAge
      Object.assign(data, { cookie })
      session = new SessionObject(req as object, data) as expressSession.Session & SessionData
      req.session = session
    } catch (error) {
      throw new SharedStateError(
        'ERR_AS_ONE_SESSION',
        `the stored session is corrupted: its cookie is missing or no cookie (${messageOf(error)})`,
        { cause: error },
      )
    }
    if (record) keepRecord(session, record)
    return session
  }
}

/** What we know about `session`, which is to be stored under `sid`; undefined when it came from under another id. */
export function recordFor(sid: string, session: object): SessionRecord | undefined {
  const known =
    recordOf(session) ?? (session instanceof expressSession.Session ? recordNew(session, sid) : undefined)
  return known?.sid === sid ? known : undefined
}

/** The session this request has is none that could be stored. */
export function detachedError({ detached }: SessionRecord): SharedStateError {
  return detached === 'unavailable'
    ? new SharedStateError(
        'ERR_AS_ONE_REDIS_UNAVAILABLE',
        'sessions are unavailable: this request has none, so it cannot be changed or destroyed',
      )
    : Object.assign(
        new SharedStateError(
          'ERR_AS_ONE_SESSION',
          'the session has just been given another id, and this request came with the old one',
        ),
        { status: 409 },
      )
}

/** An update has nothing to update. */
export function goneError(): SharedStateError {
  const error = new SharedStateError(
    'ERR_AS_ONE_SESSION',
    'the session has been destroyed, or has expired, meanwhile',
  )
  return Object.assign(error, { status: 409 })
}

/** The baseline after a save; other saves of the same object may have moved it since this one began. */
export function storedAfter(
  { stored }: SessionRecord,
  base: Fields | undefined,
  changes: Changes | undefined,
  saved: Fields,
): Fields {
  if (!stored || !changes || stored === base) return saved
  const next = new Map(stored)
  for (const [field, { mine }] of changes) {
    if (mine === undefined) next.delete(field)
    else next.set(field, mine)
  }
  return next
}

/** How long a session shall live from now on: a cookie that expires decides. */
export function lifetimeMs(session: SessionData, ttlMs: number): number {
  const expires: unknown = session.cookie?.expires
  if (expires instanceof Date || typeof expires === 'string') {
    const ms = new Date(expires).getTime() - Date.now()
    if (!Number.isNaN(ms)) return ms
  }
  return ttlMs
}

/** An idle session may end early by the touch it was spared: at most a tenth of its life. */
export function touchIntervalMs(lifeMs: number, touchEveryMs: number): number {
  return Math.min(touchEveryMs, lifeMs / 10)
}

/** A copy: the cookie object goes on changing. */
export function cookieState(cookie: expressSession.Cookie | { data?: undefined }): CookieState {
  const { data } = cookie as { data?: CookieState }
  return data ?? { ...(cookie as CookieState) }
}

export function ignore(): void {}
