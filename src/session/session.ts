import type { IncomingMessage } from 'node:http'
import type { SharedContext } from '../context.ts'
import { type Duration, durationMs } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import type { CookieRequest } from './cookie.ts'
import { recordOf } from './fields.ts'
import { newSessionId } from './ids.ts'
import { type PlainSessionMiddleware, sessionMiddleware } from './middleware.ts'
import { resolveSessionOptions, type SessionOptions } from './options.ts'
import { Revocations, type Revoked } from './revocations.ts'
import { checkUser, type MovingRequest, moveSession } from './rotation.ts'
import type { HashStore } from './store.ts'
import { createSessionStore } from './stores.ts'
import { type UpgradeSession, upgradeSession } from './upgrade.ts'
import { type UserSessions, userSessions } from './user-sessions.ts'

/** Connect middleware, for Express 4 and 5, Connect and plain `node:http`. */
export interface SessionMiddleware<Data extends object = object> extends PlainSessionMiddleware<Data> {
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
}

export interface RotateOptions {
  /** How long requests with the old id are told from forged ones. @default '10s' */
  grace?: Duration
}

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
  const middleware = sessionMiddleware<Data>(store, resolved, inert, ctx.readAhead)
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
    await moveSession(req as MovingRequest, session, {
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
