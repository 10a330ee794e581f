import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { fieldsOf, keepRecord, recordOf, recordStored } from './fields.ts'
import { detachedError, ignore, recordFor, type SessionData } from './recorded-store.ts'
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
  await move(store, session as SessionData, {
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

interface Move {
  /** The new session id. */
  readonly sid: string
  readonly user: string | undefined
  /** Whether the old id still opens the session meanwhile: not when it has gained rights. */
  readonly sign: 'open' | 'closed'
  readonly graceMs: number
}

/** Stores the session anew under another id, and leaves a sign under the old one. */
async function move(store: HashStore, session: SessionData, to: Move): Promise<void> {
  const { sid, user, sign, graceMs } = to
  const record = recordFor((session as { id?: string }).id ?? '', session)
  if (record?.detached) throw detachedError(record)
  const old = record?.stored && (record.home ?? store.idOf(record.sid))
  const id = store.idOf(sid)
  const next = recordStored(session, sid, fieldsOf(session))
  Object.assign(next, {
    stored: undefined,
    original: record?.original ?? next.original,
    user,
    createdAt: record?.createdAt,
  })
  try {
    // Noted before it exists and after: whoever ends all sessions of the user finds it or comes before it.
    if (user !== undefined) await store.note(user, id, session, old)
    await new Promise<void>((resolve, reject) => {
      store.set(sid, session, (error) => (error ? reject(error) : resolve()))
    })
    if (user !== undefined) await store.note(user, id, session, old)
    if (old !== undefined) await store.leave(old, id, sign, graceMs)
  } catch (error) {
    if (record) keepRecord(session, record) // it goes on as it was
    await store.end(id).catch(ignore) // nobody knows its id
    throw error
  }
}

/** @throws SharedStateError `ERR_AS_ONE_SESSION` */
export function checkUser(user: unknown): asserts user is string {
  if (typeof user === 'string' && user !== '') return
  throw new SharedStateError('ERR_AS_ONE_SESSION', `a user id must be a non-empty string, got ${show(user)}`)
}
