import expressSession from 'express-session'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { CookieState } from './fields.ts'
import { keepRecord, recordOf } from './fields.ts'

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
      session = super.createSession(req, data)
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
