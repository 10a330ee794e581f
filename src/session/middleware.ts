import type { IncomingMessage, ServerResponse } from 'node:http'
import type expressSession from 'express-session'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import type { ReadAhead } from '../core/read-ahead.ts'
import { settleAdopted } from './adopted.ts'
import { holdResponse } from './commit.ts'
import { Cookie, isSecure, isUnderPath, readSessionId, type SecretKey, type SignedId } from './cookie.ts'
import { EarlyLoad } from './early-load.ts'
import { fieldsOf, recordNew, recordOf, recordStored, type SessionRecord } from './fields.ts'
import { type FastifyPlugin, fastifyPlugin, type KoaMiddleware, koaMiddleware } from './frameworks.ts'
import { newSessionId } from './ids.ts'
import type { ResolvedSessionOptions } from './options.ts'
import { SessionCommit, type SessionRequest, type SessionStore } from './session-commit.ts'
import { SessionObject, type SharedSession } from './session-object.ts'
import type { LoadCallback as Loaded } from './store.ts'

/** What the middleware is over any store; Connect middleware, for Express 4 and 5, Connect and plain `node:http`. */
export interface PlainSessionMiddleware<Data extends object = object> {
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
  /** For Koa: `app.use(sessions.koa)`. */
  readonly koa: KoaMiddleware
  /** For Fastify: `app.register(sessions.fastify)`. */
  readonly fastify: FastifyPlugin
}

/** The middleware over any express-session store. */
export function sessionMiddleware<Data extends object = object>(
  store: SessionStore,
  options: ResolvedSessionOptions,
  isInert: () => boolean = () => false,
  readAhead?: ReadAhead,
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

  const takeEarly = options.readsAhead ? readAhead?.offer(loadEarly) : undefined

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
      const begun = takeEarly?.(req)
      const early = begun?.stands(req.headers.cookie) ? begun : undefined
      const signed = early?.signed ?? readSessionId(req, options.name, secrets)
      if (signed !== undefined) {
        req.sessionID = signed.sid
        const onLoaded: Loaded = (error, data, note) => loaded(signed, error, data, note)
        if (early) early.give(onLoaded)
        else store.get(signed.sid, onLoaded as Parameters<SessionStore['get']>[1])
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

  /** Of a request that has not come here yet; whatever is wrong with it is told when it has. */
  function loadEarly(request: IncomingMessage, res: ServerResponse): EarlyLoad | undefined {
    const req = request as SessionRequest
    if (req.session || !connected || isInert()) return undefined
    if (!isUnderPath(req, options.cookieFor(req).path ?? '/')) return undefined
    const signed = readSessionId(req, options.name, options.secretsFor(req))
    if (signed === undefined) return undefined
    settleAdopted(req, res)
    return new EarlyLoad(signed, req.headers.cookie, (sid, callback) =>
      store.get(sid, callback as Parameters<SessionStore['get']>[1]),
    )
  }
}

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
