import { channels } from '../core/channels.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import type { Fields } from './fields.ts'
import { applyChanges, changesBetween, type RuleFor } from './merge.ts'
import { contended, runUpdate, type SaveJob, type SaveOutcome, SaveQueue } from './save-queue.ts'
import { expected, SAVE } from './scripts.ts'
import type { Sealer } from './seal.ts'
import { hashField, sessionKey, type Written } from './stored-hash.ts'

export interface HashJob extends SaveJob {
  /** What the changed fields were in Redis, when that is another text than their JSON. */
  readonly texts: ReadonlyMap<string, string> | undefined
  /** JSON; undefined when the application has removed it. */
  readonly cookie: string | undefined
  /** The cookie is written over this one; undefined: over any. */
  readonly cookieBefore: string | undefined
  readonly ttlMs: number
  /** Of a session that is stored anew. */
  readonly user: string | undefined
  /** As above; ms by Redis' clock. */
  readonly createdAt: number | undefined
  done(outcome: HashOutcome): void
}

export interface HashOutcome extends SaveOutcome {
  /** Redis' time in ms. */
  readonly now?: number
  /** By field. */
  readonly written?: ReadonlyMap<string, Written>
}

/** A whole session as it lies in Redis. */
interface Known {
  readonly fields: Fields
  readonly revision: string
}

interface Plan {
  readonly mode: 'new' | 'delta'
  readonly revision: string
  /** Field, what it must be, new text ... */
  readonly args: readonly string[]
  readonly written: ReadonlyMap<string, Written>
  /** The whole session afterwards, if that is known. */
  readonly whole: Fields | undefined
}

type Finish = (outcome: HashOutcome, known?: Known) => void
type Reply = readonly [number, ...(string | number)[]]

export interface HashSavesOptions {
  readonly redis: SessionRedis
  readonly sealer: Sealer
  readonly rules: RuleFor
  /** How long a save may try when others keep changing the session. */
  readonly timeoutMs: number
  readonly absoluteTtlMs: number
  /** What all keys start with; the hashed id follows. */
  readonly prefix: () => string
}

/**
 * Saves sessions that are a hash each: the changed fields, each against what the request knew of it. What others have
 * changed meanwhile comes back, is merged, and tried again; updates run on the whole session and against its revision.
 */
export class HashSaves {
  readonly #options: HashSavesOptions
  readonly #queue: SaveQueue<HashJob, Known>

  constructor(options: HashSavesOptions) {
    this.#options = options
    this.#queue = new SaveQueue((key, jobs, known, finish) => {
      const attempt = { key, jobs, finish, giveUpAt: performance.now() + options.timeoutMs }
      this.#try(attempt, known, undefined)
    })
  }

  add(key: string, job: HashJob): void {
    this.#queue.add(key, job)
  }

  drop(key: string): void {
    this.#queue.drop(key)
  }

  /** What SAVE is told before the fields; `revision` is the one it must find, '': any. */
  head(key: string, mode: 'new' | 'create' | 'delta', job: Head, revision = ''): string[] {
    const { ttlMs, cookie = '', cookieBefore, user = '', createdAt } = job
    const before = cookieBefore === undefined ? '*' : cookieBefore === cookie ? '~' : expected(cookieBefore)
    const [ttl, longest] = [String(Math.ceil(ttlMs)), String(this.#options.absoluteTtlMs)]
    return [key, mode, ttl, longest, revision, cookie, before, user, String(createdAt ?? '')]
  }

  #try(attempt: Attempt, known: Known | undefined, others: Others | undefined): void {
    const { key, jobs, finish } = attempt
    if (jobs.length === 0) {
      finish({ stored: true }, known)
      return
    }
    const replaces = jobs.some(({ changes }) => !changes)
    if (!known && !replaces && jobs.some(({ update }) => update)) {
      this.#load(attempt)
      return
    }
    let plan: Plan
    try {
      plan =
        known || replaces
          ? this.#wholePlan(attempt, replaces ? undefined : known)
          : this.#plan(attempt, others)
    } catch (error) {
      finish({ error })
      return
    }
    const last = jobs.at(-1) ?? (attempt.last as HashJob)
    const args = [...this.head(key, plan.mode, last, plan.revision), ...plan.args]
    this.#options.redis.call(
      key,
      (client) => runScript<Reply>(client, SAVE, args),
      (error, reply) => (error ? finish({ error }) : this.#replied(attempt, plan, reply as Reply, others)),
    )
  }

  #replied(attempt: Attempt, plan: Plan, [first, ...rest]: Reply, others: Others | undefined): void {
    const { key, finish, giveUpAt } = attempt
    if (first >= 0) {
      const known = plan.whole && { fields: plan.whole, revision: String(rest[0]) }
      finish({ stored: plan.whole ?? true, now: first, written: plan.written }, known)
    } else if (first === -1) {
      if (channels.session.hasSubscribers)
        channels.session.publish({ event: 'conflict', reason: 'gone', key })
      finish({})
    } else if (performance.now() > giveUpAt) {
      finish({ error: contended(this.#options.timeoutMs) })
    } else if (first === -2) {
      // Under its new id others may be saving it too; comparing keeps us apart.
      this.#try({ ...attempt, key: this.#options.prefix() + String(rest[0]) }, undefined, undefined)
    } else {
      const found = new Map(others)
      for (let i = 0; first === -3 && i < rest.length; i += 2) found.set(String(rest[i]), String(rest[i + 1]))
      this.#try(attempt, undefined, found)
    }
  }

  #load(attempt: Attempt): void {
    const { key, finish } = attempt
    this.#options.redis.call(
      key,
      (client) => client.hgetall(key),
      (error, reply) => {
        if (error) return finish({ error })
        const fields = new Map<string, string>()
        try {
          for (const [name, text] of Object.entries(reply ?? {})) {
            const field = sessionKey(name)
            if (field !== undefined && name !== 'cookie') fields.set(field, this.#open(key, field, text))
          }
        } catch (corrupted) {
          return finish({ error: corrupted })
        }
        this.#try(attempt, { fields, revision: reply?.['~rev'] ?? '' }, undefined)
      },
    )
  }

  /** Some fields, each for itself. `others`: what an attempt before has found instead of what we knew. */
  #plan({ key, jobs }: Attempt, others: Others | undefined): Plan {
    const from = new Map<string, string>()
    const seen = new Map<string, string | undefined>()
    for (const { changes, texts } of jobs) {
      for (const [field, { base }] of changes ?? []) {
        if (seen.has(field)) continue
        const other = others?.get(hashField(field))
        const text = other === undefined ? (texts?.get(field) ?? base) : other || undefined
        seen.set(field, text)
        const json = other === undefined ? base : text && this.#open(key, field, text)
        if (json !== undefined) from.set(field, json)
      }
    }
    const to = new Map(from)
    for (const { changes } of jobs) if (changes) applyChanges(changes, to, this.#options.rules)
    const args: string[] = []
    const written = new Map<string, Written>()
    for (const [field, text] of seen) {
      const json = to.get(field)
      if (json === from.get(field)) continue
      args.push(hashField(field), expected(text), this.#sealed(key, field, json, written))
    }
    return { mode: 'delta', revision: '', args, written, whole: undefined }
  }

  /** A new session, or one that is known as a whole and guarded by its revision. */
  #wholePlan(attempt: Attempt, known: Known | undefined): Plan {
    const { key, jobs } = attempt
    attempt.last = jobs.at(-1)
    const from: Fields = known?.fields ?? new Map()
    let to = new Map(from)
    for (const job of [...jobs]) {
      const next = job.changes ? new Map(to) : new Map(job.fields)
      if (job.changes) applyChanges(job.changes, next, this.#options.rules)
      if (runUpdate(job, jobs, next)) to = next
    }
    const args: string[] = []
    const written = new Map<string, Written>()
    for (const [field, { mine }] of changesBetween(from, to)) {
      args.push(hashField(field), '*', this.#sealed(key, field, mine, written))
    }
    return { mode: known ? 'delta' : 'new', revision: known?.revision ?? '', args, written, whole: to }
  }

  #open(key: string, field: string, text: string): string {
    return this.#options.sealer.open(key.slice(this.#options.prefix().length), field, text)
  }

  #sealed(key: string, field: string, json: string | undefined, written: Map<string, Written>): string {
    if (json === undefined) return ''
    const text = this.#options.sealer.seal(key.slice(this.#options.prefix().length), field, json)
    written.set(field, { json, text })
    return text
  }
}

type Head = Pick<HashJob, 'ttlMs' | 'cookie'> & Partial<Pick<HashJob, 'cookieBefore' | 'user' | 'createdAt'>>

interface Attempt {
  readonly key: string
  readonly jobs: HashJob[]
  readonly finish: Finish
  readonly giveUpAt: number
  last?: HashJob | undefined
}

/** Fields as Redis has them, '' when it has not. */
type Others = ReadonlyMap<string, string>
