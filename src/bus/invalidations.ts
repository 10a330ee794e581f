import { channels } from '../core/channels.ts'
import type { RedisConnection } from '../redis/client.ts'
import type { RedisSource } from '../redis/source.ts'
import { openTracking, type Tracking } from '../redis/tracking.ts'
import { encodeControl, Kind } from './frame.ts'

/** What a hub tells those who hold copies of what is in Redis, in the order in which it happened. */
export type CacheNews =
  /** Keys below the tracked prefix that may have changed; null: all of them. */
  | { readonly keys: readonly string[] | null }
  /** All that was written up to this moment (ms of the machine's monotonic clock) has been told. */
  | { readonly provenAt: number }
  /** Something may have been missed. `refused`: Redis does not let us listen, and asking again soon is no use. */
  | { readonly lost: string; readonly refused: boolean }

/** Takes news; false when the receiver is too far behind. `frame` makes the same news for a channel, once. */
export type CacheNewsPort = (news: CacheNews, frame: () => Buffer) => boolean

/** The hub's part: listens once for all its members that want it, and passes on what it hears. */
export interface InvalidationRelay {
  /** Begins or changes what a member gets: proofs this often, 0 for no more news. */
  want(port: CacheNewsPort, everyMs: number): void
  /** Idempotent. */
  close(): void
}

/** However often a member wants proofs. */
const LEAST_EVERY_MS = 10

export function createInvalidationRelay(
  source: RedisSource,
  commands: RedisConnection,
  prefix: string,
): InvalidationRelay {
  const wanted = new Map<CacheNewsPort, number>()
  /** Have not been told of an invalidation, and so must not be told of a proof before they have been told that. */
  const behind = new Set<CacheNewsPort>()
  let tracking: Tracking | undefined
  let lost: CacheNews = { lost: 'the hub has just begun to listen', refused: false }

  function tellAll(news: CacheNews): void {
    const frame = lazyFrame(news)
    for (const port of wanted.keys()) if (!tell(port, news, frame)) behind.add(port)
  }

  function tell(port: CacheNewsPort, news: CacheNews, frame: () => Buffer = lazyFrame(news)): boolean {
    if (!behind.has(port)) return port(news, frame)
    const missed = { lost: 'the worker was too far behind', refused: false }
    if (!port(missed, lazyFrame(missed))) return false
    behind.delete(port)
    return port(news, frame)
  }

  function open(everyMs: number): Tracking {
    return openTracking(source, {
      prefix,
      commands,
      everyMs,
      onInvalidated: (keys) => tellAll({ keys }),
      onProven: (at) => tellAll({ provenAt: at }),
      onLost(reason, refused) {
        lost = { lost: reason, refused }
        if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'tracking-lost', reason, refused })
        tellAll(lost)
      },
    })
  }

  return {
    want(port, everyMs) {
      if (everyMs > 0) wanted.set(port, Math.max(everyMs, LEAST_EVERY_MS))
      else wanted.delete(port)
      behind.delete(port)
      if (wanted.size === 0) {
        tracking?.close()
        tracking = undefined
        return
      }
      const soonest = Math.min(...wanted.values())
      if (tracking) {
        tracking.pace(soonest)
        if (everyMs > 0 && 'refused' in lost && lost.refused && !tracking.live) tell(port, lost)
      } else {
        tracking = open(soonest)
      }
    },
    close() {
      wanted.clear()
      tracking?.close()
      tracking = undefined
    },
  }
}

function lazyFrame(news: CacheNews): () => Buffer {
  let frame: Buffer | undefined
  return () => {
    frame ??= encodeControl(Kind.cache, news)
    return frame
  }
}

/** News that came over a channel, undefined when it is none. */
export function readCacheNews(value: Readonly<Record<string, unknown>>): CacheNews | undefined {
  const { keys, provenAt, lost, refused } = value
  if (keys === null || Array.isArray(keys)) return { keys: keys as readonly string[] | null }
  if (typeof provenAt === 'number') return { provenAt }
  if (typeof lost === 'string') return { lost, refused: refused === true }
  return undefined
}
