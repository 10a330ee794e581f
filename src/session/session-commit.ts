import type expressSession from 'express-session'
import { channels } from '../core/channels.ts'
import type { Commit } from './commit.ts'
import {
  type CookieRequest,
  isSecure,
  type SecretKey,
  type SessionCookie,
  type SignedId,
  signSessionId,
} from './cookie.ts'
import { type Fields, fieldsOf, isChanged, recordNew, recordOf, type SessionRecord } from './fields.ts'
import type { ResolvedSessionOptions } from './options.ts'
import type { SharedSession } from './session-object.ts'

let warned = false

/** Nobody can stay logged in, and no other sign of it would be seen: mostly Express without `trust proxy`. */
function warnOfWithheldCookie(name: string): void {
  if (warned) return
  warned = true
  process.emitWarning(
    `sharedSession sent no cookie '${name}': cookie.secure is true and the request came without TLS; behind a proxy ` +
      "that ends TLS tell the framework, e.g. app.set('trust proxy', 1), or set proxy: true; without TLS use 'auto'",
    { code: 'AS_ONE_COOKIE_WITHHELD' },
  )
}

/** The request as this middleware leaves it. */
export interface SessionRequest extends CookieRequest {
  session?: SharedSession | null
  sessionID?: string
  sessionStore?: expressSession.Store
}

export type SessionStore = expressSession.Store & { generate?: (req: SessionRequest) => void }

export interface CommitContext {
  readonly req: SessionRequest
  readonly store: SessionStore
  readonly options: ResolvedSessionOptions
  /** What the client sent, if it was one of ours. */
  readonly signed: SignedId | undefined
  readonly secret: SecretKey
  readonly next: (error?: unknown) => void
}

/** The end of one request: what is written, and whether a cookie goes out. The rules are express-session's. */
export class SessionCommit implements Commit {
  readonly #context: CommitContext
  /** The id the request began with; `regenerate()` changes it, which counts as a modification. */
  readonly #originalId: string | undefined
  /** Of the latest look at the session. */
  #fields: Fields | undefined
  #renewed = false
  #written = false
  #destroyed = false

  constructor(context: CommitContext) {
    this.#context = context
    this.#originalId = context.req.sessionID
  }

  save(done: (error?: unknown) => void): boolean {
    const { req, store, options, signed } = this.#context
    const { session, sessionID } = req
    if (!session) return this.#destroyUnset(done)
    const record = recordOf(session) ?? recordNew(session, String(sessionID))
    this.#renew(session)
    this.#fields = undefined
    if (typeof sessionID !== 'string') return false
    const fields = fieldsOf(session)
    this.#fields = fields
    if (record.detached) return this.#drop(record, fields)
    if (this.#shouldSave(session, record, fields)) {
      this.#written = true
      record.serialised = fields
      const before = record.stored
      try {
        session.save((error: unknown) => {
          if (error && this.#mayDrop(record, error)) {
            record.detached = 'unavailable'
            done()
            return
          }
          // Our own stores have said it, and know of saves that came between.
          if (!error && !record.gone && record.stored === before) record.stored = fields
          done(error)
        })
      } finally {
        record.serialised = undefined
      }
      return true
    }
    if (this.#written || signed?.sid !== sessionID || typeof store.touch !== 'function') return false
    this.#written = true
    const data = session as expressSession.SessionData
    if (options.commit === 'after') {
      store.touch(sessionID, data, done)
      return true
    }
    // The answer does not wait for it and does not fail with it: the session lives on for most of its time.
    const touched: (error?: unknown) => void = (error) => {
      if (error && channels.session.hasSubscribers) channels.session.publish({ event: 'touch-failed', error })
    }
    store.touch(sessionID, data, touched)
    return false
  }

  setCookie(): string | undefined {
    const { req, options, signed, secret } = this.#context
    const { session, sessionID } = req
    if (!session || typeof sessionID !== 'string') return undefined
    const record = recordOf(session)
    // An id that leads to another one is about to end: the client gets, or has, the other one.
    if (record && (record.gone || record.detached || record.home !== undefined)) return undefined
    const wanted =
      signed?.sid === sessionID
        ? options.rolling || signed.isOld || (session.cookie.expires != null && this.#isModified(session))
        : options.saveUninitialized || this.#isModified(session)
    if (!wanted) return undefined
    if (session.cookie.secure && !isSecure(req, options.proxy)) {
      warnOfWithheldCookie(options.name)
      if (channels.session.hasSubscribers) {
        channels.session.publish({
          event: 'cookie-withheld',
          name: options.name,
          reason: 'insecure-connection',
        })
      }
      return undefined
    }
    this.#renew(session)
    return (session.cookie as SessionCookie).serialize(options.name, signSessionId(sessionID, secret))
  }

  fail(error: unknown): void {
    this.#context.next(error)
  }

  /** With `onUnavailable: 'anonymous'` a visitor who has no session yet goes without. */
  #mayDrop({ stored }: SessionRecord, error: unknown): boolean {
    const { onUnavailable } = this.#context.options
    const isAway = (error as { code?: unknown }).code === 'ERR_AS_ONE_REDIS_UNAVAILABLE'
    return onUnavailable === 'anonymous' && isAway && !stored
  }

  #drop({ original, detached }: SessionRecord, fields: Fields): false {
    if (channels.session.hasSubscribers && isChanged(original, fields)) {
      channels.session.publish({ event: 'conflict', reason: detached })
    }
    return false
  }

  #destroyUnset(done: (error?: unknown) => void): boolean {
    const { req, store, options } = this.#context
    if (options.unset !== 'destroy' || !req.sessionID || this.#destroyed) return false
    this.#destroyed = true
    store.destroy(req.sessionID, done)
    return true
  }

  #shouldSave(session: SharedSession, record: SessionRecord, fields: Fields): boolean {
    const { options, signed, req } = this.#context
    if (!record.stored) {
      return options.saveUninitialized || signed?.sid === req.sessionID || this.#isModified(session)
    }
    if (options.resave && !this.#written && record.stored === record.original) return true
    return isChanged(record.stored, fields)
  }

  #isModified(session: SharedSession): boolean {
    if (session.id !== this.#originalId) return true
    this.#fields ??= fieldsOf(session)
    const original = recordOf(session)?.original
    return !original || isChanged(original, this.#fields)
  }

  /** Once for a request; and without the millisecond that express-session takes off maxAge now and then. */
  #renew(session: SharedSession): void {
    if (this.#renewed) return
    this.#renewed = true
    const { originalMaxAge } = session.cookie
    session.touch()
    const drift = (originalMaxAge ?? 0) - (session.cookie.originalMaxAge ?? 0)
    if (drift > 0 && drift <= 10) session.cookie.originalMaxAge = originalMaxAge
  }
}
