import type { Redis, RedisOptions } from 'ioredis'
import { withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import { type Address, addressOf, mapped } from './address.ts'
import { reconnectDelayMs } from './client.ts'
import { ioredis } from './ioredis.ts'
import type { ConnectTarget, RedisSource } from './source.ts'

/** A dead or half-open link is noticed at the latest after one interval and one deadline. */
const PING_EVERY_MS = 5_000
const PING_DEADLINE_MS = 5_000
/** A server that takes the connection and then says nothing would otherwise be waited for until TCP gives up. */
const SUBSCRIBE_DEADLINE_MS = 5_000
const MAX_REDIRECTS = 5

/** One connection that only listens: the channel's messages arrive on it in the order Redis sent them. */
export interface Subscriber {
  readonly up: boolean
  /** Gives the connection up for a new one: the address leads to another server by now. */
  renew(reason: string): void
  /** Idempotent. */
  close(): void
}

export interface SubscriberOptions {
  readonly channel: string
  readonly connectionName: string
  onMessage(message: Buffer): void
  onUp(): void
  onDown(reason: string): void
}

/**
 * Subscribes and stays subscribed: a new connection with backoff after every loss, on Cluster to the master that
 * owns the channel's slot. RESP2, because ioredis 6 drops the `invalidate` pushes of RESP3 that share this connection.
 */
export function openSubscriber(source: RedisSource, options: SubscriberOptions): Subscriber {
  let closed = false
  let current: Redis | undefined
  let up = false
  let attempts = 0
  let retryTimer: NodeJS.Timeout | undefined
  let pingTimer: NodeJS.Timeout | undefined
  /** Nodes the cluster has told us of; the configured ones are kept too, as names that may lead somewhere new. */
  let known: readonly Address[] = []

  async function connect(): Promise<void> {
    const target = await source.target()
    if (closed) return
    const subscribed = await withDeadline(
      target.kind === 'cluster' ? subscribeOnCluster(target) : subscribeOnServer(target),
      SUBSCRIBE_DEADLINE_MS,
      () => new Error(`not subscribed after ${SUBSCRIBE_DEADLINE_MS} ms`),
    )
    if (closed || current !== subscribed || subscribed.status !== 'ready')
      throw new Error('the connection closed while subscribing')
    subscribed.once('close', () => lost(subscribed, 'connection closed'))
    subscribed.once('moved', () => lost(subscribed, "the channel's slot moved to another master"))
    attempts = 0
    up = true
    pingTimer = setInterval(() => void checkAlive(subscribed), PING_EVERY_MS).unref()
    options.onUp()
  }

  function open(redisOptions: RedisOptions): Redis {
    if (closed) throw new Error('closed')
    const redis = new (ioredis().Redis)({
      ...redisOptions,
      protocol: 2,
      replyMapping: 'legacy',
      stringNumbers: false,
      lazyConnect: true,
      connectionName: options.connectionName,
      connectTimeout: 2_000,
      autoResubscribe: false,
      retryStrategy: () => null, // every attempt is ours: it may have to go to another node
    })
    // What still arrives over a connection that was given up would come behind what its successor has brought.
    const hear = (_channel: Buffer, message: Buffer): void => {
      if (current === redis) options.onMessage(message)
    }
    redis.on('error', () => {}) // the rejected connect() or 'close' says it
    redis.on('messageBuffer', hear)
    redis.on('smessageBuffer', hear)
    current = redis
    return redis
  }

  async function subscribeOnServer(target: ConnectTarget & { kind: 'server' }): Promise<Redis> {
    const redis = open(target.options)
    await redis.connect()
    await redis.subscribe(options.channel)
    return redis
  }

  async function subscribeOnCluster(target: ConnectTarget & { kind: 'cluster' }): Promise<Redis> {
    const seeds = [...target.nodes.map(addressOf), ...known]
    const natMap = target.options.natMap ?? undefined
    let next: Address | undefined = seeds[attempts % seeds.length]
    for (let redirects = 0; next && redirects <= MAX_REDIRECTS; redirects++) {
      const redis = open({ ...target.options.redisOptions, ...next })
      const here: Address = next
      await redis.connect()
      known = (await nodesOf(redis, here)).map((address) => mapped(address, natMap))
      next = await masterOf(redis)
      if (!next) {
        try {
          await redis.ssubscribe(options.channel)
          return redis
        } catch (error) {
          next = movedTo(messageOf(error), here)
          if (!next) throw error
        }
      }
      next = mapped(next, natMap)
      redis.disconnect()
    }
    throw new Error(`no master took the subscription after ${MAX_REDIRECTS} redirects`)
  }

  async function checkAlive(redis: Redis): Promise<void> {
    try {
      await withDeadline(redis.ping(), PING_DEADLINE_MS, () => new Error('PING was not answered'))
    } catch (error) {
      lost(redis, messageOf(error))
    }
  }

  function lost(redis: Redis, reason: string): void {
    if (current !== redis || closed) return
    current = undefined
    redis.disconnect()
    clearInterval(pingTimer)
    if (up) {
      up = false
      options.onDown(reason)
    }
    retry()
  }

  function retry(): void {
    attempts += 1
    retryTimer = setTimeout(run, reconnectDelayMs(attempts)).unref()
  }

  function run(): void {
    connect().catch((error: unknown) => {
      if (channels.redis.hasSubscribers) {
        channels.redis.publish({
          event: 'subscribe-failed',
          connection: options.connectionName,
          label: source.label,
          error,
        })
      }
      current?.disconnect()
      current = undefined
      if (!closed) retry()
    })
  }

  run()
  return {
    get up() {
      return up
    },
    renew(reason) {
      if (current && up) lost(current, reason)
    },
    close() {
      closed = true
      up = false
      clearTimeout(retryTimer)
      clearInterval(pingTimer)
      current?.disconnect()
    },
  }
}

/** The nodes of the cluster as this one knows them, so that the configured ones may all be replaced in time. */
async function nodesOf(redis: Redis, here: Address): Promise<readonly Address[]> {
  const slots = (await redis.cluster('SLOTS')) as unknown as [number, number, ...[string | null, number][]][]
  const found = new Map<string, Address>()
  for (const [, , ...nodes] of slots) {
    for (const [host, port] of nodes) {
      const address = { host: host || here.host, port } // an empty host means "where you have asked"
      found.set(`${address.host}:${port}`, address)
    }
  }
  return [...found.values()]
}

/** Where this node's master is, or undefined when it is one itself. */
async function masterOf(redis: Redis): Promise<Address | undefined> {
  const role = (await redis.role()) as unknown as [string, string, number]
  return role[0] === 'slave' ? { host: role[1], port: role[2] } : undefined
}

function movedTo(message: string, here: Address): Address | undefined {
  const match = /^MOVED \d+ (.*):(\d+)$/.exec(message)
  return match ? { host: match[1] || here.host, port: Number(match[2]) } : undefined
}
