import { AsyncResource } from 'node:async_hooks'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import { type Changes, type Fields, fieldsOf, isReserved, parseStored, type StoredBlob } from './fields.ts'
import type { SessionData } from './recorded-store.ts'
import { COMPARE_AND_SET } from './scripts.ts'

/** One call of `set()`. */
export interface BlobSave {
  /** What the session held when this request last knew, and what it has changed since; undefined: it replaces all. */
  readonly delta: { readonly base: StoredBlob; readonly changes: Changes } | undefined
  readonly fields: Fields
  /** JSON; undefined when the application has removed it. */
  readonly cookie: string | undefined
  /** TTL. */
  readonly seconds: number
  done(outcome: SaveOutcome): void
}

/** Neither of them: there is no such session any more. */
export interface SaveOutcome {
  readonly error?: unknown
  readonly stored?: StoredBlob
}

/**
 * Saves sessions that are one string each. A save replaces the string it knows; if it finds another one, it applies its
 * changes to that instead. What a worker has to save of one session while it is saving that session is written together.
 */
export class BlobSaves {
  readonly #redis: SessionRedis
  readonly #timeoutMs: number
  /** By key: being saved now; the saves that came meanwhile. */
  readonly #waiting = new Map<string, BlobSave[]>()

  /** `timeoutMs`: how long to try when others keep changing a session. */
  constructor(redis: SessionRedis, timeoutMs: number) {
    this.#redis = redis
    this.#timeoutMs = timeoutMs
  }

  add(key: string, save: BlobSave): void {
    const waiting = this.#waiting.get(key)
    // Another request's reply will settle it, so it takes its own async context along.
    if (waiting) waiting.push({ ...save, done: AsyncResource.bind(save.done) })
    else this.#begin(key, [save])
  }

  #begin(key: string, saves: readonly BlobSave[], known?: StoredBlob): void {
    this.#waiting.set(key, [])
    this.#write(key, saves, known ?? saves[0]?.delta?.base, performance.now() + this.#timeoutMs)
  }

  #write(key: string, saves: readonly BlobSave[], known: StoredBlob | undefined, giveUpAt: number): void {
    const { cookie, seconds } = saves.at(-1) as BlobSave
    const replaces = !known || saves.some(({ delta }) => !delta)
    let fields = known?.fields ?? new Map()
    for (const save of saves) fields = save.delta ? applied(save.delta.changes, fields) : save.fields
    const stored = blobOf(fields, cookie)
    const finish = (outcome: SaveOutcome): void => this.#finish(key, saves, outcome)
    if (replaces) {
      this.#redis.call(
        (client) => client.set(key, stored.text, 'EX', seconds),
        (error) => finish(error ? { error } : { stored }),
      )
      return
    }
    const args = [key, known.text, stored.text, seconds]
    this.#redis.call(
      (client) => runScript<number | string>(client, COMPARE_AND_SET, args),
      (error, reply) => {
        if (error) return finish({ error })
        if (reply === 1) return finish({ stored })
        if (typeof reply !== 'string') {
          if (channels.session.hasSubscribers) {
            channels.session.publish({ event: 'conflict', reason: 'gone', key })
          }
          return finish({})
        }
        try {
          if (performance.now() > giveUpAt) throw contended(this.#timeoutMs)
          this.#write(key, saves, parseBlob(reply).blob, giveUpAt)
        } catch (error) {
          finish({ error })
        }
      },
    )
  }

  #finish(key: string, saves: readonly BlobSave[], outcome: SaveOutcome): void {
    const next = this.#waiting.get(key) ?? []
    this.#waiting.delete(key)
    // What failed for us fails for those behind us: nobody waits for one timeout after the other.
    const settled = outcome.error ? [...saves, ...next] : saves
    if (!outcome.error && next.length > 0) this.#begin(key, next, outcome.stored)
    for (const save of settled) process.nextTick(() => save.done(outcome))
  }
}

/** @throws SharedStateError `ERR_AS_ONE_SESSION` when the text is no JSON object */
export function parseBlob(text: string): { data: SessionData; blob: StoredBlob } {
  const parsed = parseStored(text, () => 'it')
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new SharedStateError('ERR_AS_ONE_SESSION', 'the stored session is corrupted: it is no object')
  }
  const data: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(parsed))
    if (key === 'cookie' || !isReserved(key)) data[key] = value
  return { data: data as never, blob: { text, fields: fieldsOf(data) } }
}

function blobOf(fields: Fields, cookie: string | undefined): StoredBlob {
  const members = cookie === undefined ? [] : [`"cookie":${cookie}`]
  for (const [key, json] of fields) members.push(`${JSON.stringify(key)}:${json}`)
  return { text: `{${members.join()}}`, fields }
}

function applied({ set, removed }: Changes, fields: Fields): Fields {
  const next = new Map(fields)
  for (const key of removed) next.delete(key)
  for (let i = 0; i < set.length; i += 2) next.set(set[i] as string, set[i + 1] as string)
  return next
}

function contended(timeoutMs: number): SharedStateError {
  const error = new SharedStateError(
    'ERR_AS_ONE_SESSION',
    `the session could not be saved within ${timeoutMs} ms: others kept changing it`,
  )
  return Object.assign(error, { status: 503 })
}
