import { checkSize, type Fields, fieldsOf, type SessionRecord } from './fields.ts'
import {
  type Callback,
  detachedError,
  goneError,
  ignore,
  RecordedStore,
  recordFor,
  type SessionData,
} from './recorded-store.ts'
import type { SaveOutcome } from './save-queue.ts'
import { refresh } from './session-object.ts'

/** A save as both formats begin it. */
export interface Saving {
  readonly sid: string
  readonly session: SessionData
  readonly record: SessionRecord | undefined
  readonly fields: Fields
  /** JSON; undefined when the application has removed it. */
  readonly cookie: string | undefined
  /** Must run on what is stored by then. */
  readonly update: ((fields: Fields) => Fields) | undefined
}

/** The two ways to save, whatever a session looks like in Redis. */
export abstract class SavingStore extends RecordedStore {
  readonly #maxBytes: number

  constructor(maxBytes: number) {
    super()
    this.#maxBytes = maxBytes
  }

  protected abstract save(saving: Saving, callback: (error: unknown, outcome?: SaveOutcome) => void): void

  /**
   * Writes the changes of a session that `get()` gave or an earlier `set()` stored; replaces the whole session otherwise.
   * A session that has been destroyed meanwhile stays destroyed: the call succeeds, its changes are dropped.
   *
   * Errors: `ERR_AS_ONE_SESSION` with status 503 when others kept changing the session for `timeout`.
   */
  override set(sid: string, session: SessionData, callback: Callback = ignore): void {
    this.#prepared(sid, session, undefined, (error) => callback(error))
  }

  /** As `set`, with what `run` makes of the session as it is stored by then; that nobody else changes it meanwhile is sure. */
  update(sid: string, session: SessionData, run: (fields: Fields) => Fields, callback: Callback): void {
    const checked = (fields: Fields): Fields => {
      const next = run(fields)
      checkSize(next, this.#maxBytes)
      return next
    }
    this.#prepared(sid, session, checked, (error, outcome) => {
      if (error) return callback(error)
      if (!outcome?.stored) return callback(goneError())
      if (outcome.stored !== true) refresh(session, outcome.stored)
      callback()
    })
  }

  #prepared(
    sid: string,
    session: SessionData,
    update: Saving['update'],
    callback: (error: unknown, outcome?: SaveOutcome) => void,
  ): void {
    const record = recordFor(sid, session)
    let fields = record?.serialised
    let cookie: string | undefined
    try {
      if (record?.detached) throw detachedError(record)
      fields ??= fieldsOf(session)
      checkSize(fields, this.#maxBytes)
      cookie = JSON.stringify(session.cookie)
    } catch (error) {
      process.nextTick(callback, error)
      return
    }
    this.save({ sid, session, record, fields, cookie, update }, callback)
  }
}
