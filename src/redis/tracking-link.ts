import type { Redis, RedisOptions } from 'ioredis'
import { withDeadline } from '../core/abort.ts'
import { messageOf } from '../core/errors.ts'
import { ioredis } from './ioredis.ts'

const CONNECT_TIMEOUT_MS = 2_000
const INVALIDATIONS = '__redis__:invalidate'

export interface TrackingLinkOptions {
  readonly prefix: string
  readonly connectionName: string
  /** Keys that may have changed, in the order in which Redis says so; null: all of them. */
  onInvalidated(keys: readonly Buffer[] | null): void
  onClose(): void
}

/**
 * One connection to one master that hears of every key written under a prefix, whoever writes it. RESP2, redirected
 * to itself: ioredis 6 drops the `invalidate` pushes of RESP3. Broadcasting mode needs no table in Redis, and the
 * tracking dies with this connection, not with another one that nobody may have noticed.
 */
export class TrackingLink {
  readonly #redis: Redis
  readonly #options: TrackingLinkOptions
  readonly #awaited = new Map<string, () => void>()

  constructor(redisOptions: RedisOptions, options: TrackingLinkOptions) {
    this.#options = options
    this.#redis = new (ioredis().Redis)({
      ...redisOptions,
      protocol: 2,
      replyMapping: 'legacy',
      stringNumbers: false,
      lazyConnect: true,
      connectionName: options.connectionName,
      connectTimeout: CONNECT_TIMEOUT_MS,
      autoResubscribe: false,
      retryStrategy: () => null, // a new connection starts from the beginning
    })
    this.#redis.on('error', () => {}) // the rejected call or 'close' says it
    this.#redis.on('close', () => options.onClose())
    this.#redis.on('messageBuffer', (_channel: Buffer, keys: unknown) => this.#hear(keys))
  }

  /** Connects and begins to listen; the server's identity is read first, since a subscriber may not ask for it. */
  async open(): Promise<string> {
    const { prefix } = this.#options
    await this.#redis.connect()
    const identity = identityIn(await this.#redis.info('server', 'replication').catch(ignoreRefusal))
    try {
      const id = await this.#redis.client('ID')
      await this.#redis.client('TRACKING', 'ON', 'REDIRECT', id, 'BCAST', 'PREFIX', prefix)
      await this.#redis.subscribe(INVALIDATIONS)
    } catch (error) {
      throw /^(NOPERM|ERR)\b/.test(messageOf(error)) ? new TrackingRefused(messageOf(error)) : error
    }
    return identity
  }

  /** When this resolves, every invalidation that Redis sent before the answer has been handed on. */
  async ping(): Promise<void> {
    await this.#redis.ping()
  }

  /** Resolves when `key` has been written by `write` and the invalidation has come back. */
  async proveWith(key: string, write: () => Promise<unknown>, deadlineMs: number): Promise<void> {
    const heard = new Promise<void>((resolve) => this.#awaited.set(key, resolve))
    try {
      await write()
      await withDeadline(
        heard,
        deadlineMs,
        () => new TrackingRefused('the server takes CLIENT TRACKING, but sends no invalidations'),
      )
    } finally {
      this.#awaited.delete(key)
    }
  }

  close(): void {
    this.#redis.disconnect()
  }

  #hear(keys: unknown): void {
    if (keys !== null && !Array.isArray(keys)) return // a foreign PUBLISH on that channel
    if (this.#awaited.size > 0) for (const key of keys ?? []) this.#awaited.get(String(key))?.()
    this.#options.onInvalidated(keys)
  }
}

/** The server or the ACL does not let us listen; asking again soon would not help. */
export class TrackingRefused extends Error {}

/** Which server this is, and whether it takes writes: `run_id role`; empty where INFO is not allowed. */
export function identityIn(info: unknown): string {
  const text = String(info)
  const field = (name: string): string => new RegExp(`^${name}:(\\S+)`, 'm').exec(text)?.[1] ?? ''
  return `${field('run_id')} ${field('role')}`.trim()
}

function ignoreRefusal(error: Error): string {
  if (error.message.startsWith('NOPERM')) return ''
  throw error
}
