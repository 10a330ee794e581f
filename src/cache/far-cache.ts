import { DeadlineQueue } from '../core/deadline-queue.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'
import { Breaker } from './breaker.ts'

const READ: LuaScript = defineScript(
  1,
  `-- KEYS entries; ARGV[1] shortest, ARGV[2] longest that is read, in bytes
-- Result: entry and PTTL in turn, nil for what is not there or no entry
local found = {}
for at = 1, #KEYS do
  local bytes = redis.pcall('STRLEN', KEYS[at])
  found[at * 2] = false
  if type(bytes) == 'number' and bytes >= tonumber(ARGV[1]) and bytes <= tonumber(ARGV[2]) then
    found[at * 2 - 1] = redis.call('GET', KEYS[at])
    found[at * 2] = redis.call('PTTL', KEYS[at])
  elseif type(bytes) == 'table' and string.sub(bytes.err, 1, 9) ~= 'WRONGTYPE' then
    return bytes
  else
    found[at * 2 - 1] = false
  end
end
return found`,
)

/** Keys of one command; more would keep Redis from others for too long. */
const MAX_BATCH = 64

/** What one read has found: `generation` only when it had to be asked for. */
export interface Reply {
  readonly text: string
  readonly ttlMs: number
  readonly generation: string | undefined
}

interface Read {
  readonly key: string
  resolve(reply: Reply | undefined): void
  reject(error: Error): void
}

export interface FarOptions {
  readonly timeoutMs: number
  readonly minBytes: number
  readonly maxBytes: number
  /** The generation, when it is not known: asked once for all reads of a tick. */
  askGeneration(client: RedisClient): Promise<string> | undefined
}

/**
 * L2: what the cache does when Redis is away, in one place. Every call is answered within the timeout, by a result or
 * by `ERR_AS_ONE_REDIS_UNAVAILABLE`; nothing is tried twice, since it may have happened.
 */
export class FarCache {
  /** What is longer counts as nothing. */
  readonly maxBytes: number
  readonly #connection: RedisConnection
  readonly #options: FarOptions
  readonly #deadlines: DeadlineQueue
  readonly #breaker = new Breaker()
  readonly #stopListening: () => void
  #batch: Read[] = []
  #wasUp = false

  constructor(connection: RedisConnection, options: FarOptions) {
    this.maxBytes = options.maxBytes
    this.#connection = connection
    this.#options = options
    this.#deadlines = new DeadlineQueue(options.timeoutMs)
    this.#stopListening = connection.onChange((state) => state === 'up' && this.#breaker.succeeded())
  }

  /** An entry and its TTL: a copy must not outlive what it was copied from. All reads of one tick are one command. */
  entry(key: string): Promise<Reply | undefined> {
    return new Promise((resolve, reject) => {
      if (this.#batch.length === 0) process.nextTick(() => this.#flush())
      this.#batch.push({ key, resolve, reject })
    })
  }

  /** For what has another way out: once Redis has been there, its absence is told at once. */
  read<T>(command: (client: RedisClient, stillWanted: () => void) => Promise<T>): Promise<T> {
    if (this.#wasUp && !this.#connection.now) return Promise.reject(this.#explain(new Error('not connected')))
    if (!this.#breaker.allows())
      return Promise.reject(this.#explain(new Error('it did not answer a moment ago')))
    return this.write(command)
  }

  /**
   * For what is worth the wait. A command of several steps asks `stillWanted` before each further one: a write that
   * has been reported as failed must not overtake one that came after it.
   *
   * @throws SharedStateError from `stillWanted`, when the time is over
   */
  write<T>(command: (client: RedisClient, stillWanted: () => void) => Promise<T>): Promise<T> {
    const { timeoutMs } = this.#options
    return new Promise<T>((resolve, reject) => {
      let tooLate: SharedStateError | undefined
      const stillWanted = (): void => {
        if (tooLate) throw tooLate
      }
      const inTime = this.#deadlines.add(() => {
        this.#breaker.timedOut()
        tooLate = this.#explain(new Error(`no answer within ${timeoutMs} ms`))
        reject(tooLate)
      })
      const begin = (client: RedisClient): Promise<T> => {
        stillWanted()
        return command(client, stillWanted)
      }
      const client = this.#connection.now
      if (client) this.#wasUp = true
      // The connection's own error says why, so its deadline comes a little before ours.
      const soon = Math.max(1, timeoutMs - 20)
      const answer = client ? begin(client) : this.#connection.ready({ timeoutMs: soon }).then(begin)
      answer.then(
        (reply) => {
          inTime()
          this.#breaker.succeeded()
          resolve(reply)
        },
        (error: unknown) => {
          inTime()
          if (tooLate) return
          if (error instanceof Error && error.name === 'ReplyError') this.#breaker.succeeded()
          else this.#breaker.failed()
          reject(this.#explain(error))
        },
      )
    })
  }

  close(): void {
    this.#stopListening()
    this.#deadlines.close()
  }

  #flush(): void {
    const reads = this.#batch
    this.#batch = []
    for (let from = 0; from < reads.length; from += MAX_BATCH) {
      const part = reads.length <= MAX_BATCH ? reads : reads.slice(from, from + MAX_BATCH)
      this.read((client) => this.#send(client, part)).catch((error: Error) => {
        for (const { reject } of part) reject(error)
      })
    }
  }

  async #send(client: RedisClient, reads: readonly Read[]): Promise<void> {
    const asking = this.#options.askGeneration(client)
    const keys = reads.map(({ key }) => key)
    // A Cluster takes no command for keys of different slots.
    const reading = client.isCluster
      ? Promise.all(keys.map((key) => this.#readAll(client, [key]))).then((found) => found.flat())
      : this.#readAll(client, keys)
    let generation: string | undefined
    if (asking) [generation] = await Promise.all([asking, reading])
    const found = await reading
    for (let at = 0; at < reads.length; at++) {
      const text = found[at * 2]
      const reply =
        typeof text === 'string' ? { text, ttlMs: found[at * 2 + 1] as number, generation } : undefined
      ;(reads[at] as Read).resolve(reply)
    }
  }

  #readAll(client: RedisClient, keys: readonly string[]): Promise<readonly (string | number | null)[]> {
    const { minBytes, maxBytes } = this.#options
    const script = keys.length === 1 ? READ : readerOf(keys.length)
    return runScript(client, script, [...keys, minBytes, maxBytes])
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

const readers: LuaScript[] = []

/** The same script, for so many keys. */
function readerOf(keys: number): LuaScript {
  readers[keys] ??= { ...READ, keys }
  return readers[keys]
}

export function isUnavailable(error: unknown): boolean {
  return error instanceof SharedStateError && error.code === 'ERR_AS_ONE_REDIS_UNAVAILABLE'
}
