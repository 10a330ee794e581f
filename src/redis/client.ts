import type { Cluster, Redis, RedisOptions } from 'ioredis'
import { withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { ioredis } from './ioredis.ts'
import { failLateCommands, type LateCommandsOptions } from './late-commands.ts'
import type { ConnectTarget, RedisSource } from './source.ts'
import { checkServerVersion } from './version.ts'
import { writeTogether } from './write-together.ts'

export type RedisClient = Redis | Cluster

/** How long a start waits for Redis before it says so. */
export const CONNECT_DEADLINE_MS = 5_000

/**
 * Commands fail soon instead of waiting: ioredis' defaults hang a request for 73 s when Redis is down, and re-sending
 * a script whose reply was lost runs it twice. The last three undo what the caller's own ioredis options may say.
 */
const STATE_PROFILE = {
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0, // commands in flight fail with the connection; at 1 they wait for their deadline
  connectTimeout: 2_000,
  replyMapping: 'legacy', // rooms read the shapes that RESP2 and RESP3 share
  stringNumbers: false,
  enableAutoPipelining: false,
} as const satisfies RedisOptions

const DEADLINES: LateCommandsOptions = { commandMs: 1_000, silenceMs: 3_000 }

/** A server that stays a replica is not reconnected to at every write: its reads are worth something. */
const LEAVE_REPLICA_EVERY_MS = 2_000

/** A server that takes connections and refuses or does not answer INFO is asked again over a new one. */
const CHECK_AGAIN_MS = 500

/** One lazily opened connection (Cluster: one per node) with the profile for shared state. */
export interface RedisConnection {
  readonly label: string
  /** The client while it takes commands, undefined otherwise. Costs no promise on the hot path. */
  readonly now: RedisClient | undefined
  /**
   * Opens the connection if need be and waits until it takes commands.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE` after `timeoutMs` (default 5,000), `ERR_AS_ONE_REDIS_VERSION`
   * for a server older than Redis 7.0 or Valkey 7.2, `ERR_AS_ONE_CLOSED` after `close()`
   */
  ready(wait?: { timeoutMs?: number; signal?: AbortSignal | undefined }): Promise<RedisClient>
  /**
   * Asks the server whether it has become a replica, and if so connects anew: for a connection that sends nothing a
   * replica would refuse. Resolves with whether it was one. A write that is refused does the same by itself.
   */
  leaveReplica(): Promise<boolean>
  /** Told of every change; returns the function that ends it. */
  onChange(listener: (state: 'up' | 'down') => void): () => void
  /** Idempotent; commands in flight are answered first, for at most half a second. */
  close(): Promise<void>
}

export function createRedisConnection(source: RedisSource, connectionName: string): RedisConnection {
  ioredis() // now, as a rule while the app loads, and not with the first request
  const listeners = new Set<(state: 'up' | 'down') => void>()
  let client: RedisClient | undefined
  let up = false
  let opened = false
  let closing: Promise<void> | undefined
  let checkTimer: NodeJS.Timeout | undefined
  let failure: SharedStateError | undefined
  let lastError: unknown
  const waiters = new Set<{
    resolve(client: RedisClient): void
    reject(error: Error): void
  }>()

  const settle = (next: 'up' | 'down'): void => {
    if (up === (next === 'up')) return
    up = next === 'up'
    if (channels.redis.hasSubscribers) {
      channels.redis.publish({
        event: next,
        connection: connectionName,
        label: source.label,
        error: up ? undefined : lastError,
      })
    }
    for (const listener of listeners) listener(next)
  }
  const fail = (error: SharedStateError): void => {
    failure = error
    for (const waiter of waiters) waiter.reject(error)
  }

  async function open(): Promise<void> {
    const target = await source.target()
    if (closing) return
    const made = openClient(target, connectionName)
    client = made
    made.on('error', (error) => {
      lastError = error
    })
    made.on('close', () => settle('down'))
    made.on('ready', () => void checkServerVersion(made, source.label).then(onUsable, onUnusable))
    made.connect().catch(() => {}) // every attempt's error arrives at 'error'; the retry strategy goes on
  }
  const onUsable = (): void => {
    if (closing || client?.status !== 'ready') return
    settle('up')
    for (const waiter of waiters) waiter.resolve(client)
  }
  const onUnusable = (error: unknown): void => {
    if (closing) return
    lastError = error
    if (error instanceof SharedStateError) {
      fail(error)
      client?.disconnect()
      return
    }
    // If the link broke, the next 'ready' asks again; if it stands, nothing else would.
    clearTimeout(checkTimer)
    checkTimer = setTimeout(
      () => client?.status === 'ready' && !up && client.disconnect(true),
      CHECK_AGAIN_MS,
    )
    checkTimer.unref()
  }
  async function close(): Promise<void> {
    clearTimeout(checkTimer)
    settle('down')
    listeners.clear()
    fail(closedError(source.label))
    if (client) await closeClient(client)
  }

  return {
    get label() {
      return source.label // not before it is asked for: the source may learn only then where it leads
    },
    get now() {
      return up ? client : undefined
    },
    ready({ timeoutMs = CONNECT_DEADLINE_MS, signal } = {}) {
      if (closing) return Promise.reject(closedError(source.label))
      if (failure) return Promise.reject(failure)
      if (up && client) return Promise.resolve(client)
      if (!opened) {
        opened = true
        open().catch((error: unknown) => {
          opened = false // the source could not even say where to go; the next use asks it again
          for (const waiter of waiters) waiter.reject(asSharedStateError(error, source.label))
        })
      }
      let waiter: { resolve(client: RedisClient): void; reject(error: Error): void } | undefined
      const usable = new Promise<RedisClient>((resolve, reject) => {
        waiter = { resolve, reject }
        waiters.add(waiter)
      })
      const waiting = withDeadline(
        usable,
        timeoutMs,
        () => unavailable(source.label, timeoutMs, lastError),
        signal,
      )
      return waiting.finally(() => waiter && waiters.delete(waiter))
    },
    async leaveReplica() {
      if (!up || !(client instanceof ioredis().Redis)) return false // a Cluster's nodes say MOVED
      const asked = client
      const info = String(await asked.info('replication').catch(() => '')) // refused, or late: others see to that
      if (!/^role:slave/m.test(info) || closing || client !== asked) return false
      asked.disconnect(true)
      return true
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close() {
      closing ??= close()
      return closing
    },
  }
}

function openClient(target: ConnectTarget, connectionName: string): RedisClient {
  const profile = { ...STATE_PROFILE, connectionName, lazyConnect: true }
  if (target.kind === 'cluster') {
    const { enableOfflineQueue, ...perNode } = profile
    const cluster = new (ioredis().Cluster)([...target.nodes], {
      ...target.options,
      enableOfflineQueue, // at the top level: inside redisOptions ioredis ignores it
      enableAutoPipelining: perNode.enableAutoPipelining,
      lazyConnect: true,
      scaleReads: 'master', // a replica may be behind: state that was just written is read back
      clusterRetryStrategy: reconnectDelayMs,
      redisOptions: { ...withoutTimers(target.options.redisOptions), ...perNode },
    })
    cluster.on('+node', (node: Redis) => {
      writeTogether(node)
      failLateCommands(node, DEADLINES)
      failInFlight(node)
    })
    return cluster
  }
  const redis = new (ioredis().Redis)({
    ...withoutTimers(target.options),
    ...profile,
    retryStrategy: reconnectDelayMs,
    reconnectOnError: target.options.reconnectOnError ?? leavesReplica(),
  })
  writeTogether(redis)
  failLateCommands(redis, DEADLINES)
  return redis
}

/**
 * A master that is demoted keeps its connections, while its address (a name, a floating IP, a proxy) leads to the new
 * one: without a new connection every write would be refused from then on.
 */
function leavesReplica(): (error: Error) => boolean {
  let left = Number.NEGATIVE_INFINITY
  return (error) => {
    const now = performance.now()
    if (!error.message.startsWith('READONLY') || now - left < LEAVE_REPLICA_EVERY_MS) return false
    left = now
    return true
  }
}

/** What `failLateCommands` does instead. */
function withoutTimers({ commandTimeout, socketTimeout, ...rest }: RedisOptions = {}): RedisOptions {
  return rest
}

interface Flushing {
  flushQueue(error: Error, which?: { offlineQueue?: boolean; commandQueue?: boolean }): void
}

/**
 * ioredis' Cluster sends a command again when its connection closes, even one the server may have run. Commands that
 * were already on their way fail with words it does not know; those that still waited for the connection go on.
 */
function failInFlight(node: Redis): void {
  const flushing = node as unknown as Flushing
  const flush = flushing.flushQueue
  flushing.flushQueue = function (this: Flushing, error, which = {}) {
    const lost = new Error('the connection closed before the reply came', {
      cause: error,
    })
    if (which.commandQueue !== false) flush.call(this, lost, { offlineQueue: false })
    if (which.offlineQueue !== false) flush.call(this, error, { commandQueue: false })
  }
}

/** 50 ms doubling to 1 s, with jitter, so that a fleet does not come back in step. */
export function reconnectDelayMs(attempt: number): number {
  const ceiling = Math.min(1_000, 50 * 2 ** Math.min(attempt, 10))
  return Math.round(ceiling * (0.5 + Math.random() / 2))
}

async function closeClient(client: RedisClient): Promise<void> {
  if (client.status !== 'ready') {
    client.disconnect()
    return
  }
  try {
    await withDeadline(client.quit(), 500, () => new Error('QUIT was not answered'))
  } catch {
    client.disconnect() // a server that does not answer QUIT has nothing to lose
  }
}

/** `ERR_AS_ONE_REDIS_UNAVAILABLE`, with the last thing the client said. */
export function unavailable(label: string, timeoutMs: number, cause: unknown): SharedStateError {
  const why = cause === undefined ? '' : ` (${messageOf(cause)})`
  return new SharedStateError(
    'ERR_AS_ONE_REDIS_UNAVAILABLE',
    `Redis at ${label} did not answer within ${timeoutMs} ms${why}; check REDIS_URL or the redis option`,
    { cause },
  )
}

function closedError(label: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_CLOSED', `the connection to Redis at ${label} has been closed`)
}

function asSharedStateError(error: unknown, label: string): Error {
  if (error instanceof SharedStateError) return error
  return new SharedStateError(
    'ERR_AS_ONE_REDIS_UNAVAILABLE',
    `Redis at ${label} cannot be reached: ${messageOf(error)}`,
    {
      cause: error,
    },
  )
}
