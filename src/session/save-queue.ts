import { AsyncResource } from 'node:async_hooks'
import { SharedStateError } from '../core/errors.ts'
import type { Fields } from './fields.ts'
import { type Changes, changesBetween } from './merge.ts'

/** One save of one request. */
export interface SaveJob {
  /** What the request has changed since it last knew what is stored; undefined: it replaces all. */
  readonly changes: Changes | undefined
  /** The whole session as the request has it. */
  readonly fields: Fields
  /** Must run on what is stored now, perhaps several times; its changes are kept only if nobody else's came between. */
  readonly update?: ((fields: Fields) => Fields) | undefined
  done(outcome: SaveOutcome): void
}

/** None of them: there is no such session any more. */
export interface SaveOutcome {
  readonly error?: unknown
  readonly stored?: Fields | true
}

/** Saves jobs of one session together; then tells all that are still in `jobs`, and what the next batch may start from. */
export type Writer<Job, Known> = (
  key: string,
  jobs: Job[],
  known: Known | undefined,
  finish: (outcome: SaveOutcome, known?: Known) => void,
) => void

/**
 * What a worker has to save of one session while it is saving that session waits and is then written together: requests
 * of one worker do not race each other, and of several workers one always gets through.
 */
export class SaveQueue<Job extends SaveJob, Known> {
  readonly #write: Writer<Job, Known>
  /** By key: being saved now; the jobs that came meanwhile. */
  readonly #waiting = new Map<string, Job[]>()

  constructor(write: Writer<Job, Known>) {
    this.#write = write
  }

  add(key: string, job: Job): void {
    const waiting = this.#waiting.get(key)
    // Another request's reply will settle it, so it takes its own async context along.
    if (waiting) waiting.push({ ...job, done: AsyncResource.bind(job.done) })
    else this.#begin(key, [job])
  }

  /** The session is being destroyed: nothing that waits may bring it back. */
  drop(key: string): void {
    const waiting = this.#waiting.get(key)?.splice(0) ?? []
    for (const job of waiting) process.nextTick(() => job.done({}))
  }

  #begin(key: string, jobs: Job[], known?: Known): void {
    this.#waiting.set(key, [])
    this.#write(key, jobs, known, (outcome, next) => this.#finish(key, jobs, outcome, next))
  }

  #finish(key: string, jobs: readonly Job[], outcome: SaveOutcome, known: Known | undefined): void {
    const next = this.#waiting.get(key) ?? []
    this.#waiting.delete(key)
    // What failed for us fails for those behind us: nobody waits for one timeout after the other.
    const settled = outcome.error ? [...jobs, ...next] : jobs
    if (!outcome.error && next.length > 0) this.#begin(key, next, known)
    for (const job of settled) process.nextTick(() => job.done(outcome))
  }
}

/** Runs a job's update on `fields`; a job whose update throws is told so, leaves the batch, and changes nothing. */
export function runUpdate<Job extends SaveJob>(job: Job, jobs: Job[], fields: Map<string, string>): boolean {
  if (!job.update) return true
  try {
    for (const [field, { mine }] of changesBetween(fields, job.update(fields))) {
      if (mine === undefined) fields.delete(field)
      else fields.set(field, mine)
    }
    return true
  } catch (error) {
    jobs.splice(jobs.indexOf(job), 1)
    process.nextTick(() => job.done({ error }))
    return false
  }
}

export function contended(timeoutMs: number): SharedStateError {
  const error = new SharedStateError(
    'ERR_AS_ONE_SESSION',
    `the session could not be saved within ${timeoutMs} ms: others kept changing it`,
  )
  return Object.assign(error, { status: 503 })
}
