import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { DeadlineError, Deadlines } from '../redis/deadlines.ts'

/** What a decision waits for Redis; the rest of the 100 ms is for timers that come late. */
const DEADLINE_MS = 90
/** A process that has just started waits this long for its first connection, unless it hears that there is none. */
const START_MS = 1_000
/** How often a Redis that did not answer in time is asked whether it does again, as long as there are decisions. */
const PROBE_EVERY_MS = 100

/**
 * What the limits do when Redis is away, in one place: after one late answer, or without a connection, nobody waits any
 * more; one probe at a time finds out when it is back. Nothing is tried twice: a charge may have happened.
 */
export class LimitRedis {
  readonly #connection: RedisConnection
  readonly #deadlines = new Deadlines(DEADLINE_MS)
  readonly #stopListening: () => void
  /** Until the first connection there is something to wait for; afterwards the client reconnects by itself. */
  #started = false
  #connecting: Promise<void> | undefined
  /** Why there will be no connection without somebody's help: no Redis configured, too old, closed. */
  #refusal: SharedStateError | undefined
  #late = false
  #probeAt = 0
  #told: 'available' | 'unavailable' = 'available'

  constructor(connection: RedisConnection) {
    this.#connection = connection
    this.#started = connection.now !== undefined
    this.#stopListening = connection.onChange((state) => {
      if (state === 'down') return this.#tell('unavailable')
      this.#started = true
      this.#refusal = undefined
      this.#back()
    })
  }

  get label(): string {
    return this.#connection.label
  }

  /**
   * The reply of a command on `key`, or undefined when Redis is away.
   *
   * @throws SharedStateError when waiting for Redis makes no sense: it is not configured, too old, or closed
   */
  async ask<T>(key: string, command: (client: RedisClient) => Promise<T>): Promise<T | undefined> {
    let client = this.#connection.now
    if (client === undefined) {
      this.#connecting ??= this.#connect().finally(() => {
        this.#connecting = undefined
      })
      if (!this.#started) await this.#connecting
      if (this.#refusal) throw this.#refusal
      client = this.#connection.now
      if (client === undefined) return undefined
    }
    if (this.#late) {
      this.#probe(client, key)
      return undefined
    }
    const asked = client
    try {
      return await this.#deadlines.within(() => command(asked))
    } catch (error) {
      if (error instanceof SharedStateError) throw error
      if (error instanceof DeadlineError) this.#isLate(error, asked, key)
      else publish({ event: 'redis-error', error })
      return undefined
    }
  }

  close(): void {
    this.#refusal = new SharedStateError('ERR_AS_ONE_CLOSED', 'rate limits have been closed')
    this.#stopListening()
    this.#deadlines.close()
  }

  async #connect(): Promise<void> {
    try {
      // Refused attempts are known by then; what has not failed yet may be a local Redis that is being started.
      await this.#connection.ready({ timeoutMs: DEADLINE_MS }).catch((error: SharedStateError) => {
        if (this.#started || error.code !== 'ERR_AS_ONE_REDIS_UNAVAILABLE' || error.cause !== undefined) {
          throw error
        }
        return this.#connection.ready({ timeoutMs: START_MS - DEADLINE_MS })
      })
    } catch (error) {
      const { code } = error as SharedStateError
      this.#refusal = code === 'ERR_AS_ONE_REDIS_UNAVAILABLE' ? undefined : (error as SharedStateError)
      this.#started = true
      this.#tell('unavailable', error)
    }
  }

  #isLate(error: DeadlineError, client: RedisClient, key: string): void {
    if (this.#late) return
    this.#late = true
    this.#tell('unavailable', error)
    this.#probe(client, key) // at once: it may have been a hiccup
  }

  /** Asks the node that holds this very key: on a Cluster another one may be well. A slow answer is none. */
  #probe(client: RedisClient, key: string): void {
    const now = performance.now()
    if (now < this.#probeAt) return
    this.#probeAt = now + PROBE_EVERY_MS
    this.#deadlines
      .within(() => client.exists(key))
      .then(
        () => this.#back(),
        () => {}, // the next one comes
      )
  }

  #back(): void {
    this.#late = false
    this.#tell('available')
  }

  #tell(event: 'available' | 'unavailable', error?: unknown): void {
    if (this.#told === event) return
    this.#told = event
    publish({ event, label: this.label, error })
  }
}

function publish(message: Readonly<Record<string, unknown>>): void {
  if (channels['rate-limit'].hasSubscribers) channels['rate-limit'].publish(message)
}

/** An error for which the response should be a 503: Express' own error handler reads `status`. */
export function limitsUnavailable(what: string, label: string): SharedStateError {
  return new SharedStateError(
    'ERR_AS_ONE_REDIS_UNAVAILABLE',
    `${what} cannot be decided: Redis at ${label} does not answer`,
  )
}
