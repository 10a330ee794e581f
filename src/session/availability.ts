import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { DeadlineError, Deadlines } from '../redis/deadlines.ts'
import { slotOf } from '../redis/slots.ts'
import { Breaker } from './breaker.ts'

/** An error for which the response should be a 503: Express' own error handler reads `status`. */
export interface UnavailableError extends SharedStateError {
  readonly code: 'ERR_AS_ONE_REDIS_UNAVAILABLE'
  readonly status: 503
}

/**
 * What the session room does when Redis is away, in one place: every call is answered within `timeoutMs`, with a
 * result or with `ERR_AS_ONE_REDIS_UNAVAILABLE` (status 503); after a timeout, or 5 failures in a second, at once, until
 * Redis answers again. On a Cluster that is found out for each master. Nothing is tried twice: a save may have happened.
 */
export class SessionRedis {
  readonly #connection: RedisConnection
  /** What Redis has of `timeoutMs`: the rest is for the answer. */
  readonly #patienceMs: number
  readonly #deadlines: Deadlines
  readonly #stopListening: () => void
  /** Of the masters that are away, by node; '' is all of Redis. Empty when all is well. */
  readonly #breakers = new Map<string, Breaker>()

  constructor(connection: RedisConnection, timeoutMs: number) {
    this.#connection = connection
    this.#patienceMs = Math.ceil(timeoutMs * 0.95)
    this.#deadlines = new Deadlines(this.#patienceMs)
    this.#stopListening = connection.onChange((state) => {
      if (state === 'up') for (const node of [...this.#breakers.keys()]) this.#back(node)
    })
  }

  /** Runs `command`, which is about `key`; `callback` runs outside any promise, so that what it throws is an uncaught exception. */
  call<T>(
    key: string,
    command: (client: RedisClient) => Promise<T>,
    callback: (error: SharedStateError | null, reply?: T) => void,
  ): void {
    if (this.#breakers.size > 0) {
      const cause = this.#refusal(key)
      if (cause !== undefined) {
        process.nextTick(callback, this.#explain(cause))
        return
      }
    }
    this.#inTime(command).then(
      (reply) => process.nextTick(callback, null, reply),
      (error: unknown) => {
        this.#note(key, error)
        process.nextTick(callback, this.#explain(error))
      },
    )
  }

  /** As `call`, as a promise. */
  ask<T>(key: string, command: (client: RedisClient) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.call(key, command, (error, reply) => (error ? reject(error) : resolve(reply as T)))
    })
  }

  /** For operations over all sessions, which take as long as they take; each command still has its deadline. */
  async run<T>(operation: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      return await operation(
        this.#connection.now ?? (await this.#connection.ready({ timeoutMs: this.#patienceMs })),
      )
    } catch (error) {
      throw this.#explain(error)
    }
  }

  close(): void {
    this.#stopListening()
    this.#deadlines.close()
  }

  #inTime<T>(command: (client: RedisClient) => Promise<T>): Promise<T> {
    return this.#deadlines.within(() => {
      const client = this.#connection.now
      return client ? command(client) : this.#connection.ready({ timeoutMs: this.#soonMs }).then(command)
    })
  }

  /** The connection's own error says why, so its deadline comes a little before ours. */
  get #soonMs(): number {
    return Math.max(1, this.#patienceMs - 20)
  }

  /** Why there is no need to ask; undefined when there is. */
  #refusal(key: string): unknown {
    for (const node of ['', this.#nodeOf(key)]) {
      const breaker = this.#breakers.get(node)
      if (breaker?.cause === undefined) continue
      if (breaker.isProbeDue()) this.#probe(node, key)
      return breaker.cause
    }
    return undefined
  }

  #note(key: string, error: unknown): void {
    // A reply is no sign of absence, whatever it says.
    if ((error as { name?: unknown }).name === 'ReplyError' || isAboutData(error)) return
    const isTimeout = error instanceof DeadlineError || error instanceof SharedStateError
    const node = this.#connection.now ? this.#nodeOf(key) : ''
    const breaker = this.#breakers.get(node) ?? new Breaker()
    const wasOpen = breaker.cause !== undefined
    breaker.failed(error, isTimeout || messageOf(error) === 'Command timed out')
    this.#breakers.set(node, breaker)
    if (!wasOpen && breaker.cause !== undefined && channels.session.hasSubscribers) {
      channels.session.publish({ event: 'unavailable', label: this.#connection.label, node, error })
    }
  }

  /** With a command that writes nothing but counts as a write: those may be the ones that wait. */
  #probe(node: string, key: string): void {
    this.#inTime((client) => client.hdel(key, '~probe')).then(
      () => this.#back(node),
      (error: unknown) => {
        // Of another type, or not allowed: answers all the same.
        if (/^(WRONGTYPE|NOPERM)/.test(messageOf(error))) this.#back(node)
      },
    )
  }

  #back(node: string): void {
    if (!this.#breakers.delete(node)) return
    if (channels.session.hasSubscribers) {
      channels.session.publish({ event: 'available', label: this.#connection.label, node })
    }
  }

  /** The master that holds a key, as the client sees it; '' when there is but one server. */
  #nodeOf(key: string): string {
    const client = this.#connection.now
    return client && 'slots' in client ? String(client.slots[slotOf(key)]?.[0] ?? '') : ''
  }

  /** WRONGTYPE is about the data; whatever else Redis or the connection says, the session cannot be had now. */
  #explain(error: unknown): SharedStateError {
    if (isAboutData(error)) return error as SharedStateError
    const { label } = this.#connection
    const what = messageOf(error)
    if (what.startsWith('WRONGTYPE')) {
      return new SharedStateError('ERR_AS_ONE_SESSION', `the stored session is corrupted: ${what}`, {
        cause: error,
      })
    }
    const names = what.includes(label) ? '' : `Redis at ${label}: `
    return new SharedStateError('ERR_AS_ONE_REDIS_UNAVAILABLE', `sessions are unavailable: ${names}${what}`, {
      cause: error,
    })
  }
}

function isAboutData(error: unknown): boolean {
  return error instanceof SharedStateError && error.code === 'ERR_AS_ONE_SESSION'
}
