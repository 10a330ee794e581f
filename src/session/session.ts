import type { IncomingMessage, ServerResponse } from 'node:http'
import expressSession from 'express-session'
import type { SharedContext } from '../context.ts'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { settleAdopted } from './adopted.ts'
import { SessionRedis } from './availability.ts'
import { BlobStore } from './blob-store.ts'
import { type Commit, holdResponse } from './commit.ts'
import {
  Cookie,
  type CookieRequest,
  isSecure,
  isUnderPath,
  readSessionId,
  type SecretKey,
  type SessionCookie,
  signSessionId,
} from './cookie.ts'
import {
  type Fields,
  fieldsOf,
  isChanged,
  recordNew,
  recordOf,
  recordStored,
  type SessionRecord,
} from './fields.ts'
import { newSessionId } from './ids.ts'
import { type ResolvedSessionOptions, resolveSessionOptions, type SessionOptions } from './options.ts'
import { HashStore } from './store.ts'

/**
 * What `req.session` is: express-session's Session with the application's own fields, those of `Data` and those
 * declared in express-session's `SessionData`. Each may be missing: a new session has none.
 */
export type SharedSession<Data extends object = object> = expressSession.Session &
  Partial<expressSession.SessionData> &
  Partial<Data>

/** Connect middleware, for Express 4 and 5, Connect and plain `node:http`. */
export interface SessionMiddleware<Data extends object = object> {
  (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void): void
  /**
   * `req.session`, with the types of this middleware's `Data`.
   *
   * @throws SharedStateError `ERR_AS_ONE_SESSION` when the request has no session of this middleware: it has not
   * passed here, is not under the cookie's path, or its session was destroyed
   * @example
   * const sessions = sharedSession<{ cart: string[] }>({ secret })
   * app.use(sessions).post('/cart', (req, res) => { (sessions.of(req).cart ??= []).push(req.body) })
   */
  of(req: IncomingMessage): SharedSession<Data>
}

/** The request as this middleware leaves it. */
interface SessionRequest extends CookieRequest {
  session?: SharedSession | null
  sessionID?: string
  sessionStore?: expressSession.Store
}

type SessionStore = expressSession.Store & { generate?: (req: SessionRequest) => void }

/**
 * One session, whichever worker answers.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 * @example
 * app.use(createSession(ctx, { secret: process.env.SESSION_SECRET, cookie: { maxAge: '7d' } }))
 * app.get('/', (req, res) => res.send(`${(req.session.views = (req.session.views ?? 0) + 1)} views`))
 */
export function createSession<Data extends object = object>(
  ctx: SharedContext,
  options: SessionOptions,
): SessionMiddleware<Data> {
  const resolved = resolveSessionOptions(options)
  const redis = new SessionRedis(ctx.redis, resolved.timeoutMs)
  ctx.closing.add(() => redis.close())
  const store =
    resolved.format === 'blob'
      ? new BlobStore({ redis, ...resolved })
      : new HashStore({ redis, keys: ctx.keys, ...resolved })
  return sessionMiddleware<Data>(store, resolved, () => ctx.inert())
}

/** The middleware over any express-session store. */
export function sessionMiddleware<Data extends object = object>(
  store: SessionStore,
  options: ResolvedSessionOptions,
  isInert: () => boolean = () => false,
): SessionMiddleware<Data> {
  let connected = true
  store.on('disconnect', () => {
    connected = false
  })
  store.on('connect', () => {
    connected = true
  })
  // Named as in express-session, because its Store.regenerate() calls it.
  store.generate = (req) => generate(req, options)

  return Object.assign(sharedSession, { of: (req: IncomingMessage) => sessionOf<Data>(req, store) })

  function sharedSession(
    request: IncomingMessage,
    res: ServerResponse,
    next: (error?: unknown) => void,
  ): void {
    const req = request as SessionRequest
    if (req.session || !connected || isInert()) {
      next()
      return
    }
    let secret: SecretKey
    try {
      if (!isUnderPath(req, options.cookieFor(req).path ?? '/')) return void next()
      const secrets = options.secretsFor(req)
      secret = secrets.keys[0] as SecretKey
      settleAdopted(req, res)
      req.sessionStore = store
      const sid = readSessionId(req, options.name, secrets)
      if (sid !== undefined) {
        req.sessionID = sid
        store.get(sid, (error, data) => loaded(sid, error, data))
        return
      }
      store.generate?.(req)
    } catch (error) {
      next(error)
      return
    }
    proceed(undefined)

    function loaded(sid: string, error: unknown, data: expressSession.SessionData | null | undefined): void {
      // Never a new session on an error: that would log people out. ENOENT is express-session's word for "none".
      if (error && (error as { code?: unknown }).code !== 'ENOENT') {
        next(error)
        return
      }
      try {
        if (error || !data) store.generate?.(req)
        else inflate(store, req, sid, data)
      } catch (unusable) {
        next(unusable)
        return
      }
      proceed(sid)
    }

    function proceed(cookieId: string | undefined): void {
      holdResponse(res, new SessionCommit({ req, store, options, cookieId, secret, next }), options.commit)
      next()
    }
  }
}

function sessionOf<Data extends object>(
  { session, sessionStore }: SessionRequest,
  store: SessionStore,
): SharedSession<Data> {
  if (session && sessionStore === store) return session as SharedSession<Data>
  throw new SharedStateError(
    'ERR_AS_ONE_SESSION',
    'this request has no session of this middleware: it has not passed there, is not under the cookie path, ' +
      'or its session was destroyed',
  )
}

function generate(req: SessionRequest, options: ResolvedSessionOptions): void {
  const sid = options.genid ? options.genid(req) : newSessionId()
  req.sessionID = sid
  const session = new (expressSession.Session as unknown as new (req: SessionRequest) => SharedSession)(req)
  const cookie = new Cookie(options.cookieFor(req))
  if (cookie.secure === 'auto' || (cookie.sameSite as unknown) === 'auto') {
    const secure = isSecure(req, options.proxy)
    if (cookie.secure === 'auto') cookie.secure = secure
    if ((cookie.sameSite as unknown) === 'auto') cookie.sameSite = secure ? 'none' : 'lax'
  }
  session.cookie = cookie
  req.session = session
  recordNew(session, sid)
}

function inflate(
  store: SessionStore,
  req: SessionRequest,
  sid: string,
  data: expressSession.SessionData,
): void {
  const session = store.createSession(req as Parameters<typeof store.createSession>[0], data)
  // Other stores have no baseline to give.
  if (!recordOf(session)) recordStored(session, sid, fieldsOf(session))
}

interface CommitContext {
  readonly req: SessionRequest
  readonly store: SessionStore
  readonly options: ResolvedSessionOptions
  /** The id the client sent, if it was one of ours. */
  readonly cookieId: string | undefined
  readonly secret: SecretKey
  readonly next: (error?: unknown) => void
}

/** The end of one request: what is written, and whether a cookie goes out. The rules are express-session's. */
class SessionCommit implements Commit {
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
    const { req, store, options, cookieId } = this.#context
    const { session, sessionID } = req
    if (!session) return this.#destroyUnset(done)
    const record = recordOf(session) ?? recordNew(session, String(sessionID))
    this.#renew(session)
    this.#fields = undefined
    if (typeof sessionID !== 'string') return false
    const fields = fieldsOf(session)
    this.#fields = fields
    if (this.#shouldSave(session, record, fields)) {
      this.#written = true
      record.serialised = fields
      try {
        session.save((error: unknown) => {
          if (!error && !record.gone) record.stored = fields
          done(error)
        })
      } finally {
        record.serialised = undefined
      }
      return true
    }
    if (this.#written || cookieId !== sessionID || typeof store.touch !== 'function') return false
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
    const { req, options, cookieId, secret } = this.#context
    const { session, sessionID } = req
    if (!session || typeof sessionID !== 'string' || recordOf(session)?.gone) return undefined
    const wanted =
      cookieId === sessionID
        ? options.rolling || (session.cookie.expires != null && this.#isModified(session))
        : options.saveUninitialized || this.#isModified(session)
    if (!wanted) return undefined
    if (session.cookie.secure && !isSecure(req, options.proxy)) {
      if (channels.session.hasSubscribers) {
        // Behind a TLS proxy this is Express without `trust proxy`, or a missing `proxy: true`.
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

  #destroyUnset(done: (error?: unknown) => void): boolean {
    const { req, store, options } = this.#context
    if (options.unset !== 'destroy' || !req.sessionID || this.#destroyed) return false
    this.#destroyed = true
    store.destroy(req.sessionID, done)
    return true
  }

  #shouldSave(session: SharedSession, record: SessionRecord, fields: Fields): boolean {
    const { options, cookieId, req } = this.#context
    if (!record.stored) {
      return options.saveUninitialized || cookieId === req.sessionID || this.#isModified(session)
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
