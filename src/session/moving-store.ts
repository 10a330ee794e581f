import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import type { BlobStore } from './blob-store.ts'
import { type Fields, recordOf } from './fields.ts'
import { type Callback, ignore, RecordedStore, type SessionData } from './recorded-store.ts'
import { COMPARE_AND_SET } from './scripts.ts'
import type { HashStore, LoadCallback } from './store.ts'

export interface MovingStoreOptions {
  readonly hash: HashStore
  readonly blobs: BlobStore
  readonly redis: SessionRedis
  /** Of the blobs' keys. */
  readonly prefix: string
  /** True: sessions found as blobs become hashes. False: they stay, but hashes are found all the same. */
  readonly movesOn: boolean
}

/**
 * Both formats at once, for the time of a deploy: workers of the first deploy write blobs and find what those of the
 * second have moved, workers of the second move what they read. Nobody loses a change or a session on the way.
 */
export class MovingStore extends RecordedStore {
  readonly #options: MovingStoreOptions

  constructor(options: MovingStoreOptions) {
    super()
    this.#options = options
  }

  override get(sid: string, callback: LoadCallback): void {
    const { hash, blobs, movesOn } = this.#options
    if (!movesOn) {
      blobs.get(sid, (error, found) => (error || found ? callback(error, found) : hash.get(sid, callback)))
      return
    }
    hash.get(sid, (error, found, note) => {
      if (error || found || note) return callback(error, found, note)
      blobs.get(sid, (failed, blob) => {
        if (failed) return callback(failed)
        // Neither here nor there: between our two looks another worker may have moved it.
        if (!blob) return hash.get(sid, callback)
        this.#move(sid, blob).then(
          () => hash.get(sid, callback),
          (unmoved: unknown) => process.nextTick(callback, unmoved),
        )
      })
    })
  }

  override set(sid: string, session: SessionData, callback: Callback = ignore): void {
    this.#follow(sid, session, callback, (store, done) => store.set(sid, session, done))
  }

  update(sid: string, session: SessionData, run: (fields: Fields) => Fields, callback: Callback): void {
    this.#follow(sid, session, callback, (store, done) => store.update(sid, session, run, done))
  }

  override touch(sid: string, session: SessionData, callback: Callback = ignore): void {
    this.#placeOf(session).touch(sid, session, callback)
  }

  /** In both places: a blob that was left behind must not come back. */
  override destroy(sid: string, callback: Callback = ignore): void {
    const { hash, blobs } = this.#options
    blobs.destroy(sid, (error) => (error ? callback(error) : hash.destroy(sid, callback)))
  }

  override length(callback: (error: unknown, length?: number) => void): void {
    const { hash, blobs } = this.#options
    hash.length((error, hashes = 0) => {
      if (error) return callback(error)
      blobs.length((failed, others = 0) => callback(failed, hashes + others))
    })
  }

  override all(callback: (error: unknown, sessions?: SessionData[]) => void): void {
    const { hash, blobs } = this.#options
    hash.all((error, hashes = []) => {
      if (error) return callback(error)
      blobs.all((failed, others = []) => callback(failed, [...hashes, ...others]))
    })
  }

  override clear(callback: Callback = ignore): void {
    const { hash, blobs } = this.#options
    blobs.clear((error) => (error ? callback(error) : hash.clear(callback)))
  }

  #placeOf(session: SessionData): HashStore | BlobStore {
    const { hash, blobs, movesOn } = this.#options
    const record = recordOf(session)
    if (record?.stored) return record.blob ? blobs : hash
    return movesOn ? hash : blobs
  }

  /** A blob that is gone may have been moved since this request has loaded it; its changes follow. */
  #follow(
    sid: string,
    session: SessionData,
    callback: Callback,
    save: (store: HashStore | BlobStore, done: Callback) => void,
  ): void {
    const { hash } = this.#options
    const place = this.#placeOf(session)
    save(place, (error) => {
      const record = recordOf(session)
      if (place === hash || !record?.gone) return callback(error)
      if (error || this.#options.movesOn) return callback(error)
      hash.isAlive(hash.idOf(sid)).then(
        (isMoved) => {
          if (!isMoved) return callback()
          Object.assign(record, { gone: false, blob: undefined })
          save(hash, callback)
        },
        (failed: unknown) => process.nextTick(callback, failed),
      )
    })
  }

  async #move(sid: string, data: SessionData): Promise<void> {
    const { hash, redis, prefix } = this.#options
    const record = recordOf(data)
    let blob = record?.blob
    if (!record || !blob) return
    if (!(await hash.create(sid, data, blob.fields))) return // another worker was faster
    const key = prefix + sid
    for (;;) {
      const known: string = blob.text
      const reply = await redis.ask(key, (client) =>
        runScript<number | string>(client, COMPARE_AND_SET, [key, known, '', 0]),
      )
      if (reply === 1) return
      if (reply === 0) {
        await hash.end(hash.idOf(sid)) // destroyed while we moved it
        return
      }
      blob = await hash.catchUp(sid, data, blob.fields, String(reply))
    }
  }
}
