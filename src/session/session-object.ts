import expressSession from 'express-session'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { type Fields, fieldsOf, isReserved, parseField, recordOf } from './fields.ts'

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

/** What our stores can do beside express-session's contract. */
export interface UpdatingStore {
  /** Saves the session with what `run` makes of it; `run` may be called several times. */
  update(
    sid: string,
    session: object,
    run: (fields: Fields) => Fields,
    callback: (error?: unknown) => void,
  ): void
}

/** express-session's prototype without its constructor, which makes the id final: a login changes it. */
const Base: new () => expressSession.Session = withoutConstructor() as never

function withoutConstructor(): unknown {
  function Session(): void {}
  Session.prototype = expressSession.Session.prototype
  return Session
}

export interface SessionRequestPart {
  sessionID?: string
  sessionStore?: expressSession.Store
}

/** express-session's Session, with what only one shared by all workers can do. */
export class SessionObject extends Base {
  declare readonly req: SessionRequestPart
  constructor(req: SessionRequestPart, data?: object) {
    super()
    Object.defineProperty(this, 'req', { value: req })
    Object.defineProperty(this, 'id', { value: req.sessionID, configurable: true })
    for (const key in data) if (!(key in this)) Object.assign(this, { [key]: data[key as never] })
  }

  update<T>(change: (data: Record<string, unknown>) => T): Promise<T> {
    const { sessionID, sessionStore } = this.req
    const store = sessionStore as Partial<UpdatingStore> | undefined
    return new Promise((resolve, reject) => {
      if (typeof store?.update !== 'function' || sessionID === undefined) {
        throw refusal('the store of this session cannot update; use sharedSession with its own store')
      }
      let result: T
      const run = (fields: Fields): Fields => {
        const data: Record<string, unknown> = {}
        for (const [key, json] of fields) data[key] = parseField(key, json)
        result = change(data)
        if (typeof (result as { then?: unknown } | undefined)?.then === 'function') {
          throw refusal('the function given to update() must not be asynchronous: it may run several times')
        }
        return fieldsOf(data)
      }
      store.update(sessionID, this, run, (error) => (error ? reject(error) : resolve(result)))
    })
  }

  incr(path: string, by = 1): Promise<number> {
    if (!Number.isFinite(by))
      return Promise.reject(refusal(`incr(${show(path)}) needs a number, got ${show(by)}`))
    return this.update((data) => {
      const keys = path.split('.')
      const last = keys.pop() as string
      let place = data
      for (const key of keys) {
        const next: unknown = Object.hasOwn(place, key) ? place[key] : undefined
        if (next === undefined) define(place, key, {})
        else if (typeof next !== 'object' || next === null) throw notANumber(path, next)
        place = place[key] as Record<string, unknown>
      }
      const before: unknown = Object.hasOwn(place, last) ? place[last] : 0
      if (typeof before !== 'number') throw notANumber(path, before)
      define(place, last, before + by)
      return before + by
    })
  }
}

/** Gives a session object what is stored now, except where the application has gone on changing it. */
export function refresh(session: object, stored: Fields): void {
  const record = recordOf(session)
  if (!record) return
  const [now, before] = [fieldsOf(session), record.stored ?? new Map<string, string>()]
  for (const key of new Set([...now.keys(), ...stored.keys()])) {
    const json = stored.get(key)
    if (isReserved(key) || now.get(key) !== before.get(key) || now.get(key) === json) continue
    if (json === undefined) Reflect.deleteProperty(session, key)
    else define(session, key, parseField(key, json))
  }
  record.stored = stored
}

/** Never the setter of a prototype. */
function define(place: object, key: string, value: unknown): void {
  Object.defineProperty(place, key, { value, writable: true, enumerable: true, configurable: true })
}

function notANumber(path: string, value: unknown): SharedStateError {
  return refusal(`incr(${show(path)}) needs a number there, but the session has ${show(value)}`)
}

function refusal(what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_SESSION', what)
}
