import type { Redis } from 'ioredis'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { publishPieces } from '../redis/publish.ts'

export type RemoteOutcome = 'sent' | 'queued' | 'dropped'

/** What waits for Redis is bounded; past it the oldest goes first, as the one least likely to matter still. */
const MAX_QUEUED_BYTES = 8 << 20
/** One PUBLISH carries at most about this much, so that a backlog does not stand in front of other commands for long. */
const MAX_PUBLISH_BYTES = 1 << 20
const RETRY_MS = 100
/** A PUBLISH costs far more than what is in it, so frames that follow within this time of one share the next … */
const SHARE_MS = 4
/** … unless there are that many, or somebody waits. */
const SHARE_BYTES = 256 << 10

interface Entry {
  readonly frame: Buffer
  readonly done: ((outcome: RemoteOutcome) => void) | undefined
  readonly heardBy: HeardBy | undefined
}

/** How many have got it, ourselves among them; undefined where Redis cannot tell. */
export type HeardBy = (listeners: number | undefined) => void

/**
 * Frames on their way to the other machines: all of a tick in one PUBLISH, and never two PUBLISHes at once. So the order
 * holds when one fails and is sent again; a frame that arrived twice is recognised by its sequence number.
 */
export interface Outbox {
  /** `heardBy` is told once Redis has taken it, however late that is. */
  add(frame: Buffer, done?: (outcome: RemoteOutcome) => void, heardBy?: HeardBy): void
  /** Sends what has waited for the connection. */
  flush(): void
  /** Resolves when all has been sent, or after the deadline. */
  drain(deadlineMs: number): Promise<void>
}

/** Resolves with what `HeardBy` is told, if that is a number. */
export type SendBatch = (client: RedisClient, frames: readonly Buffer[]) => Promise<unknown>

/** All frames in one PUBLISH, on Cluster to the shard of the channel's slot, where a node counts its own listeners only. */
export function publishOn(channel: string): SendBatch {
  return (client, frames) =>
    'nodes' in client
      ? client.spublish(channel, Buffer.concat(frames)).then(() => undefined)
      : publishPieces(client as Redis, channel, frames)
}

/** `onSent` is told of every batch; undefined also where Redis may not have taken it. */
export function createOutbox(connection: RedisConnection, sendBatch: SendBatch, onSent?: HeardBy): Outbox {
  let queue: Entry[] = []
  /** Entries whose publisher has not been told an outcome. */
  const untold = new Set<Entry>()
  let queuedBytes = 0
  let scheduled = false
  let sending = false
  let sentAt = Number.NEGATIVE_INFINITY
  let sharing: NodeJS.Timeout | undefined
  const drained = new Set<() => void>()

  function schedule(): void {
    if (scheduled || sending || (queue.length === 0 && drained.size === 0)) return
    const isAwaited = untold.size > 0 || drained.size > 0
    const wait = isAwaited || queuedBytes >= SHARE_BYTES ? 0 : sentAt + SHARE_MS - performance.now()
    if (wait > 0) {
      sharing ??= setTimeout(flush, wait)
      return
    }
    scheduled = true
    setImmediate(flush)
  }

  function flush(): void {
    scheduled = false
    clearTimeout(sharing)
    sharing = undefined
    if (sending) return
    if (queue.length === 0) {
      for (const resolve of drained) resolve()
      return
    }
    const client = connection.now
    if (!client) {
      tellQueued()
      return
    }
    const batch = takeBatch()
    sending = true
    sentAt = performance.now()
    const frames = batch.map((entry) => entry.frame)
    sendBatch(client, frames).then(
      (reply) => {
        sending = false
        const listeners = typeof reply === 'number' ? reply : undefined
        onSent?.(listeners)
        for (const entry of batch) {
          entry.heardBy?.(listeners)
          tell(entry, 'sent')
        }
        schedule()
      },
      (error: unknown) => {
        sending = false
        onFailure(batch, error)
      },
    )
  }

  function takeBatch(): Entry[] {
    let bytes = 0
    let count = 0
    for (const { frame } of queue) {
      if (count > 0 && bytes + frame.length > MAX_PUBLISH_BYTES) break
      bytes += frame.length
      count += 1
    }
    queuedBytes -= bytes
    return queue.splice(0, count)
  }

  function onFailure(batch: readonly Entry[], error: unknown): void {
    onSent?.(undefined)
    const reason = messageOf(error)
    if (/^(NOPERM|NOAUTH|WRONGPASS|ERR)\b/.test(reason)) {
      // Refused for good: sending it again would be refused again, and hold up what follows.
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'publish-refused', reason })
      for (const entry of batch) tell(entry, 'dropped')
      schedule()
      return
    }
    queue = [...batch, ...queue]
    for (const { frame } of batch) queuedBytes += frame.length
    tellQueued()
    setTimeout(flush, RETRY_MS).unref()
  }

  /** A publisher does not wait for an outage to end: its receipt says `queued`, once. */
  function tellQueued(): void {
    for (const entry of untold) tell(entry, 'queued')
  }

  function tell(entry: Entry, outcome: RemoteOutcome): void {
    if (untold.delete(entry)) entry.done?.(outcome)
  }

  return {
    add(frame, done, heardBy) {
      const entry = { frame, done, heardBy }
      queue.push(entry)
      if (done) untold.add(entry)
      queuedBytes += frame.length
      while (queuedBytes > MAX_QUEUED_BYTES && queue.length > 1) {
        const dropped = queue.shift() as Entry
        queuedBytes -= dropped.frame.length
        tell(dropped, 'dropped')
        if (channels.bus.hasSubscribers)
          channels.bus.publish({ event: 'outbox-overflow', bytes: dropped.frame.length })
      }
      schedule()
    },
    flush,
    drain(deadlineMs) {
      if (queue.length === 0 && !sending) return Promise.resolve()
      return new Promise((resolve) => {
        const done = (): void => {
          clearTimeout(timer)
          drained.delete(done)
          resolve()
        }
        const timer = setTimeout(done, deadlineMs)
        drained.add(done)
        flush()
      })
    },
  }
}
