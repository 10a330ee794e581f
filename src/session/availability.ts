import { messageOf, SharedStateError } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { Deadlines } from '../redis/deadlines.ts'

/** An error for which the response should be a 503: Express' own error handler reads `status`. */
export interface UnavailableError extends SharedStateError {
  readonly code: 'ERR_AS_ONE_REDIS_UNAVAILABLE'
  readonly status: 503
}

/**
 * What the session room does when Redis is away, in one place: every call is answered within `timeoutMs`, with a
 * result or with `ERR_AS_ONE_REDIS_UNAVAILABLE` (status 503). Nothing is tried twice: a save may have happened.
 */
export class SessionRedis {
  readonly #connection: RedisConnection
  readonly #timeoutMs: number
  readonly #deadlines: Deadlines

  constructor(connection: RedisConnection, timeoutMs: number) {
    this.#connection = connection
    this.#timeoutMs = timeoutMs
    this.#deadlines = new Deadlines(timeoutMs)
  }

  /** Runs `command`; `callback` runs outside any promise, so that what it throws is an uncaught exception. */
  call<T>(
    command: (client: RedisClient) => Promise<T>,
    callback: (error: SharedStateError | null, reply?: T) => void,
  ): void {
    this.#inTime(command).then(
      (reply) => process.nextTick(callback, null, reply),
      (error: unknown) => process.nextTick(callback, this.#explain(error)),
    )
  }

  /** For operations over all sessions, which take as long as they take; each command still has its deadline. */
  async run<T>(operation: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      return await operation(
        this.#connection.now ?? (await this.#connection.ready({ timeoutMs: this.#timeoutMs })),
      )
    } catch (error) {
      throw this.#explain(error)
    }
  }

  close(): void {
    this.#deadlines.close()
  }

  #inTime<T>(command: (client: RedisClient) => Promise<T>): Promise<T> {
    // The connection's own error says why, so its deadline comes a little before ours.
    const soon = Math.max(1, this.#timeoutMs - 20)
    return this.#deadlines.within(() => {
      const client = this.#connection.now
      return client ? command(client) : this.#connection.ready({ timeoutMs: soon }).then(command)
    })
  }

  /** WRONGTYPE is about the data; whatever else Redis or the connection says, the session cannot be had now. */
  #explain(error: unknown): SharedStateError {
    if (error instanceof SharedStateError && error.code === 'ERR_AS_ONE_SESSION') return error
    const { label } = this.#connection
    const what = messageOf(error)
    if (what.startsWith('WRONGTYPE')) {
      return new SharedStateError('ERR_AS_ONE_SESSION', `the stored session is corrupted: ${what}`, {
        cause: error,
      })
    }
    const unavailable = new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      `sessions are unavailable: Redis at ${label}: ${what}`,
      { cause: error },
    )
    return Object.assign(unavailable, { status: 503 })
  }
}
