import { DeadlineQueue } from '../core/deadline-queue.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'

const READ: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry. Result: {entry, PTTL}, or nil when there is none or something that is no string
local entry = redis.pcall('GET', KEYS[1])
if type(entry) ~= 'string' then return false end
return {entry, redis.call('PTTL', KEYS[1])}`,
)

/** An entry and its TTL, in one command: an L1 copy must not outlive what it was copied from. */
export function readEntry(client: RedisClient, key: string): Promise<[entry: string, ttlMs: number] | null> {
  return runScript(client, READ, [key])
}

/**
 * L2: what the cache does when Redis is away, in one place. Every call is answered within the timeout, by a result or
 * by `ERR_AS_ONE_REDIS_UNAVAILABLE`; nothing is tried twice, since it may have happened.
 */
export class FarCache {
  readonly #connection: RedisConnection
  readonly #timeoutMs: number
  readonly #deadlines: DeadlineQueue
  #wasUp = false

  constructor(connection: RedisConnection, timeoutMs: number) {
    this.#connection = connection
    this.#timeoutMs = timeoutMs
    this.#deadlines = new DeadlineQueue(timeoutMs)
  }

  /** For what has another way out: once Redis has been there, its absence is told at once. */
  read<T>(command: (client: RedisClient) => Promise<T>): Promise<T> {
    if (this.#wasUp && !this.#connection.now) return Promise.reject(this.#explain(new Error('not connected')))
    return this.write(command)
  }

  /** For what is worth the wait. */
  write<T>(command: (client: RedisClient) => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const inTime = this.#deadlines.add(() =>
        reject(this.#explain(new Error(`no answer within ${this.#timeoutMs} ms`))),
      )
      const client = this.#connection.now
      if (client) this.#wasUp = true
      // The connection's own error says why, so its deadline comes a little before ours.
      const soon = Math.max(1, this.#timeoutMs - 20)
      const answer = client ? command(client) : this.#connection.ready({ timeoutMs: soon }).then(command)
      answer.then(
        (reply) => {
          inTime()
          resolve(reply)
        },
        (error: unknown) => {
          inTime()
          reject(this.#explain(error))
        },
      )
    })
  }

  /** Mistakes in the settings and a closed instance stay what they are; all else is Redis being away. */
  #explain(error: unknown): SharedStateError {
    if (error instanceof SharedStateError && error.code !== 'ERR_AS_ONE_REDIS_UNAVAILABLE') return error
    const { label } = this.#connection
    const what = messageOf(error)
    return new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      `the cache is unavailable: ${what.includes(label) ? what : `Redis at ${label}: ${what}`}`,
      { cause: error },
    )
  }
}

export function isUnavailable(error: unknown): boolean {
  return error instanceof SharedStateError && error.code === 'ERR_AS_ONE_REDIS_UNAVAILABLE'
}
