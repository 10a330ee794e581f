import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import { type Fields, fieldsOf, isReserved, parseStored, type StoredBlob } from './fields.ts'
import { applyChanges, type RuleFor } from './merge.ts'
import type { SessionData } from './recorded-store.ts'
import { contended, runUpdate, type SaveJob, type SaveOutcome, SaveQueue } from './save-queue.ts'
import { COMPARE_AND_SET } from './scripts.ts'

export interface BlobJob extends SaveJob {
  /** What the session held when this request last knew; undefined: the job replaces all. */
  readonly before: StoredBlob | undefined
  /** JSON; undefined when the application has removed it. */
  readonly cookie: string | undefined
  /** TTL. */
  readonly seconds: number
  done(outcome: BlobOutcome): void
}

export interface BlobOutcome extends SaveOutcome {
  readonly blob?: StoredBlob
}

export interface BlobSavesOptions {
  readonly redis: SessionRedis
  readonly rules: RuleFor
  /** How long to try when others keep changing a session. */
  readonly timeoutMs: number
}

interface Attempt {
  readonly key: string
  readonly jobs: BlobJob[]
  readonly last: BlobJob
  readonly finish: (outcome: BlobOutcome, known?: StoredBlob) => void
  readonly giveUpAt: number
}

/**
 * Saves sessions that are one string each. A save replaces the string it knows; if it finds another one, it puts its
 * changes on top of that instead.
 */
export class BlobSaves {
  readonly #options: BlobSavesOptions
  readonly #queue: SaveQueue<BlobJob, StoredBlob>

  constructor(options: BlobSavesOptions) {
    this.#options = options
    this.#queue = new SaveQueue((key, jobs, known, finish) => {
      const giveUpAt = performance.now() + options.timeoutMs
      this.#write({ key, jobs, last: jobs.at(-1) as BlobJob, finish, giveUpAt }, known ?? jobs[0]?.before)
    })
  }

  add(key: string, job: BlobJob): void {
    this.#queue.add(key, job)
  }

  drop(key: string): void {
    this.#queue.drop(key)
  }

  #write(attempt: Attempt, known: StoredBlob | undefined): void {
    const { key, jobs, last, finish } = attempt
    const { redis } = this.#options
    const replaces = !known || jobs.some(({ changes }) => !changes)
    let blob: StoredBlob
    try {
      blob = blobOf(this.#fieldsOf(jobs, known), last.cookie)
    } catch (error) {
      finish({ error })
      return
    }
    if (jobs.length === 0) {
      finish({ stored: true })
      return
    }
    const stored = { stored: blob.fields, blob }
    if (replaces) {
      redis.call(
        key,
        (client) => client.set(key, blob.text, 'EX', last.seconds),
        (error) => (error ? finish({ error }) : finish(stored, blob)),
      )
      return
    }
    const args = [key, known.text, blob.text, last.seconds]
    redis.call(
      key,
      (client) => runScript<number | string>(client, COMPARE_AND_SET, args),
      (error, reply) => {
        if (error) return finish({ error })
        if (reply === 1) return finish(stored, blob)
        if (typeof reply !== 'string') {
          if (channels.session.hasSubscribers) {
            channels.session.publish({ event: 'conflict', reason: 'gone', key })
          }
          return finish({})
        }
        try {
          if (performance.now() > attempt.giveUpAt) throw contended(this.#options.timeoutMs)
          this.#write(attempt, parseBlob(reply).blob)
        } catch (error) {
          finish({ error })
        }
      },
    )
  }

  #fieldsOf(jobs: BlobJob[], known: StoredBlob | undefined): Fields {
    let fields = new Map(known?.fields)
    for (const job of [...jobs]) {
      const next = job.changes ? new Map(fields) : new Map(job.fields)
      if (job.changes) applyChanges(job.changes, next, this.#options.rules)
      if (runUpdate(job, jobs, next)) fields = next
    }
    return fields
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
