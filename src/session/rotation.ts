import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { recordOf } from './fields.ts'
import type { SessionData } from './recorded-store.ts'
import type { Revocations } from './revocations.ts'
import type { HashStore } from './store.ts'

export interface MoveOptions {
  readonly store: HashStore
  readonly revocations: Revocations
  readonly newId: string
  /** Who logs in; undefined: whoever it was. */
  readonly user: string | undefined
  readonly graceMs: number
}

export interface MovingRequest {
  session?: object | null
  sessionID?: string
}

/** Gives the session of a request another id, and keeps what is in it and the object itself. */
export async function moveSession(
  req: MovingRequest,
  session: object,
  { store, revocations, newId, user, graceMs }: MoveOptions,
): Promise<void> {
  const before = recordOf(session)
  const from = before?.stored && (before.home ?? store.idOf(before.sid))
  const isLogin = user !== undefined
  await store.move(session as SessionData, {
    sid: newId,
    user: user ?? before?.user,
    sign: isLogin ? 'closed' : 'open',
    graceMs,
  })
  Object.defineProperty(session, 'id', { value: newId, configurable: true })
  if (req.session === session) req.sessionID = newId
  if (from === undefined) return
  // Who held something open for the old id may be somebody else: rights are not passed on.
  if (isLogin) revocations.ended({ id: from, userId: before?.user, reason: 'rotated' })
  else revocations.moved(from, store.idOf(newId))
  if (channels.session.hasSubscribers) channels.session.publish({ event: 'rotated', login: isLogin })
}

/** @throws SharedStateError `ERR_AS_ONE_SESSION` */
export function checkUser(user: unknown): asserts user is string {
  if (typeof user === 'string' && user !== '') return
  throw new SharedStateError('ERR_AS_ONE_SESSION', `a user id must be a non-empty string, got ${show(user)}`)
}
