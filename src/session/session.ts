import type { IncomingMessage, ServerResponse } from 'node:http'
import type expressSession from 'express-session'
import type { SharedContext } from '../context.ts'
import { channels } from '../core/channels.ts'
import { type Duration, durationMs } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { settleAdopted } from './adopted.ts'
import { type Commit, holdResponse } from './commit.ts'
import {
  Cookie,
  type CookieRequest,
  isSecure,
  isUnderPath,
  readSessionId,
  type SecretKey,
  type SessionCookie,
  type SignedId,
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
import { type FastifyPlugin, fastifyPlugin, type KoaMiddleware, koaMiddleware } from './frameworks.ts'
import { newSessionId } from './ids.ts'
import { type ResolvedSessionOptions, resolveSessionOptions, type SessionOptions } from './options.ts'
import { Revocations, type Revoked } from './revocations.ts'
import { checkUser, moveSession } from './rotation.ts'
import { SessionObject } from './session-object.ts'
import type { HashStore } from './store.ts'
import { createSessionStore } from './stores.ts'
import { type UpgradeSession, upgradeSession } from './upgrade.ts'
import { type UserSessions, userSessions } from './user-sessions.ts'

/** What a session of ours can do beside express-session's methods. */
export interface SharedSessionMethods<Data extends object = object> {
  /**
   * Changes the session as it is stored now, exactly: `change` is run again when others were faster, so it must not be
   * asynchronous or do anything else. What this request has changed before is saved with it. Gives what `change` returns.
   *
   * Rejects with `ERR_AS_ONE_SESSION` when the session is gone (status 409) or others never stopped changing it (503),
   * and with `ERR_AS_ONE_REDIS_UNAVAILABLE`; after that one it may have happened.
   * @example const left = await req.session.update((data) => (data.credit -= 1))
   */
  update<T>(change: (data: Partial<expressSession.SessionData> & Partial<Data>) => T): Promise<T>
  /**
   * Adds to a number, exactly; `path` leads into objects with dots; gives the new number.
   *
   * @example await req.session.incr('visits')
   */
  incr(path: string, by?: number): Promise<number>
}

/**
 * What `req.session` is: express-session's Session with the application's own fields, those of `Data` and those
 * declared in express-session's `SessionData`. Each may be missing: a new session has none.
 */
export type SharedSession<Data extends object = object> = expressSession.Session &
  SharedSessionMethods<Data> &
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
  /**
   * Notes who has logged in and gives the session a new id, with all that is in it: one that was known before is worth
   * nothing. Requests that are under way with the old id save into the session; for `grace` those that still come with
   * it get an empty session and no cookie.
   *
   * Rejects with `ERR_AS_ONE_SESSION` (status 409 when the session was destroyed meanwhile), `ERR_AS_ONE_REDIS_UNAVAILABLE`.
   * @example await sessions.login(req, user.id)
   */
  login(req: IncomingMessage, userId: string, options?: RotateOptions): Promise<void>
  /** A new id, for instance every hour; everything stays. For `grace` the old id opens the session as well. */
  rotate(req: IncomingMessage, options?: RotateOptions): Promise<void>
  /** Who has logged in with `login()`; undefined: nobody. */
  userId(req: IncomingMessage): string | undefined
  /** All sessions of a user. */
  forUser(userId: string): UserSessions<Data>
  /**
   * The session of a request that does not pass the middleware, to be read only; undefined when there is none.
   *
   * Rejects with `ERR_AS_ONE_SESSION`, `ERR_AS_ONE_REDIS_UNAVAILABLE`.
   * @example
   * server.on('upgrade', async (req, socket, head) => {
   *   const session = await sessions.fromRequest(req)
   *   if (!session?.userId) return socket.destroy()
   *   wss.handleUpgrade(req, socket, head, (ws) => session.signal.addEventListener('abort', () => ws.close(4401)))
   * })
   */
  fromRequest(req: IncomingMessage): Promise<UpgradeSession<Data> | undefined>
  /** Calls `listener` on every worker when a session is destroyed or replaced by a login; returns the function that ends it. */
  onRevoked(listener: (revoked: Revoked) => void): () => void
  /** For Koa: `app.use(sessions.koa)`. */
  readonly koa: KoaMiddleware
  /** For Fastify: `app.register(sessions.fastify)`. */
  readonly fastify: FastifyPlugin
}

export interface RotateOptions {
  /** How long requests with the old id are told from forged ones. @default '10s' */
  grace?: Duration
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
  const { store, hash, users } = createSessionStore(ctx, resolved)
  const inert = (): boolean => ctx.inert()
  const middleware = sessionMiddleware<Data>(store, resolved, inert)
  const revocations = new Revocations({
    bus: ctx.bus,
    where: (ids) => (hash ? hash.where(ids) : Promise.resolve(ids.map(() => 'here'))),
    everyMs: Math.max(1_000, Math.min(60_000, resolved.touchEveryMs)),
  })
  ctx.closing.add(() => revocations.close())
  if (hash) hash.onEnded = (id, userId) => revocations.ended({ id, userId, reason: 'destroyed' })

  const move = async (
    req: IncomingMessage,
    user: string | undefined,
    { grace = '10s' }: RotateOptions,
  ): Promise<void> => {
    const graceMs = durationMs(grace)
    if (graceMs === undefined) throw refusal(`grace must be a duration such as '10s', got ${show(grace)}`)
    const session = middleware.of(req)
    const newId = resolved.genid ? resolved.genid(req as CookieRequest) : newSessionId()
    await moveSession(req as SessionRequest, session, {
      store: byHash(hash),
      revocations,
      newId,
      user,
      graceMs,
    })
  }
  return Object.assign(middleware, {
    async login(req: IncomingMessage, userId: string, options: RotateOptions = {}) {
      checkUser(userId)
      await move(req, userId, options)
    },
    rotate: (req: IncomingMessage, options: RotateOptions = {}) => move(req, undefined, options),
    userId: (req: IncomingMessage) => recordOf(middleware.of(req))?.user,
    forUser(userId: string) {
      checkUser(userId)
      return userSessions<Data>(byHash(hash), users, userId)
    },
    async fromRequest(req: IncomingMessage) {
      if (inert()) return undefined
      return upgradeSession<Data>(req, {
        options: resolved,
        store,
        idOf: (sid) => byHash(hash).idOf(sid),
        revocations,
      })
    },
    onRevoked(listener: (revoked: Revoked) => void) {
      byHash(hash)
      return revocations.on(listener)
    },
  })
}

function byHash(hash: HashStore | undefined): HashStore {
  if (hash) return hash
  throw refusal("users, new ids and the end of sessions need format 'hash'")
}

function refusal(what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_SESSION', `sharedSession: ${what}`)
}

/** What the middleware is without a store of ours. */
export type PlainSessionMiddleware<Data extends object = object> = Pick<
  SessionMiddleware<Data>,
  'of' | 'koa' | 'fastify'
> &
  ((req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => void)

/** The middleware over any express-session store. */
export function sessionMiddleware<Data extends object = object>(
  store: SessionStore,
  options: ResolvedSessionOptions,
  isInert: () => boolean = () => false,
): PlainSessionMiddleware<Data> {
  let connected = true
  store.on('disconnect', () => {
    connected = false
  })
  store.on('connect', () => {
    connected = true
  })
  // Named as in express-session, because its Store.regenerate() calls it.
  store.generate = (req) => generate(req, options)

  return Object.assign(sharedSession, {
    of: (req: IncomingMessage) => sessionOf<Data>(req, store),
    koa: koaMiddleware(sharedSession),
    fastify: fastifyPlugin(sharedSession),
  })

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
      const signed = readSessionId(req, options.name, secrets)
      if (signed !== undefined) {
        req.sessionID = signed.sid
        store.get(signed.sid, ((error, data, note) => loaded(signed, error, data, note)) as Loaded)
        return
      }
      store.generate?.(req)
    } catch (error) {
      next(error)
      return
    }
    proceed(undefined)

    function loaded(
      signed: SignedId,
      error: unknown,
      data: expressSession.SessionData | null | undefined,
      note: 'rotated' | undefined,
    ): void {
      const isAway = error && (error as { code?: unknown }).code === 'ERR_AS_ONE_REDIS_UNAVAILABLE'
      const detached = isAway && options.onUnavailable === 'anonymous' ? 'unavailable' : note
      // Never a new session on an error: that would log people out. ENOENT is express-session's word for "none".
      if (error && !detached && (error as { code?: unknown }).code !== 'ENOENT') {
        next(error)
        return
      }
      try {
        if (error || !data) store.generate?.(req)
        else inflate(store, req, signed.sid, data)
      } catch (unusable) {
        next(unusable)
        return
      }
      if (detached) detach(req.session, detached)
      proceed(signed)
    }

    function proceed(signed: SignedId | undefined): void {
      holdResponse(res, new SessionCommit({ req, store, options, signed, secret, next }), options.commit)
      next()
    }
  }
}

/** express-session's contract, and what our stores say beside. */
type Loaded = (error: unknown, data?: expressSession.SessionData | null, note?: 'rotated') => void

/** An empty session for this request alone. */
function detach(session: object | null | undefined, why: NonNullable<SessionRecord['detached']>): void {
  const record = session && recordOf(session)
  if (record) record.detached = why
  if (channels.session.hasSubscribers) channels.session.publish({ event: 'anonymous', reason: why })
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
  const session = new SessionObject(req) as unknown as SharedSession
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
  const session = store.createSession(req as unknown as Parameters<typeof store.createSession>[0], data)
  // Other stores have no baseline to give.
  if (!recordOf(session)) recordStored(session, sid, fieldsOf(session))
}

interface CommitContext {
  readonly req: SessionRequest
  readonly store: SessionStore
  readonly options: ResolvedSessionOptions
  /** What the client sent, if it was one of ours. */
  readonly signed: SignedId | undefined
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
