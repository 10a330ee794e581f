import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import type { CacheEvents, Events } from './events.ts'
import type { NearCache } from './near-cache.ts'
import type { ResolvedLoad } from './options.ts'
import type { CacheCounters } from './stats.ts'

/** A value after its TTL; times on the scale of `performance.now()`. */
export interface Stale {
  readonly value: unknown
  readonly endedAt: number
  readonly until: number
}

export interface Awaited {
  readonly key: string
  readonly promise: Promise<unknown>
  readonly stale: Stale | undefined
  /** Whether Redis has said what it has: then `stale` is all there is. */
  readonly answered: boolean
  /** Made by the first who wants to be told. */
  onStale: Set<() => void> | undefined
}

type Reason = CacheEvents['stale']['reason']

/** Waits for a loader as long as this caller wants to; then a value in its grace is better than none. */
export function waitFor(
  flight: Awaited,
  { graceMs, softMs, hardMs }: ResolvedLoad,
  { events, counters, near }: { events: Events; counters: CacheCounters; near: NearCache },
): Promise<unknown> {
  if (graceMs === 0 && hardMs === undefined) return flight.promise
  const { key, promise } = flight
  flight.onStale ??= new Set()
  const { onStale } = flight
  return new Promise((resolve, reject) => {
    let waiting = true
    let late = softMs === 0
    let softTimer: NodeJS.Timeout | undefined
    let hardTimer: NodeJS.Timeout | undefined

    const end = (): void => {
      waiting = false
      clearTimeout(softTimer)
      clearTimeout(hardTimer)
      onStale.delete(offer)
    }
    const serve = (reason: Reason, error?: unknown): boolean => {
      const isUnknown = reason === 'hard-timeout' && !flight.answered
      const stale = flight.stale ?? (isUnknown ? lastCopy(near, key, { outdated: false }) : undefined)
      const now = performance.now()
      if (!stale || now >= stale.until || now - stale.endedAt > graceMs) return false
      end()
      counters.stale += 1
      events.emit('stale', error === undefined ? { key, reason } : { key, reason, error })
      resolve(stale.value)
      return true
    }
    const offer = (): void => {
      if (late) serve('soft-timeout')
    }

    onStale.add(offer)
    if (softMs !== undefined && softMs > 0) {
      softTimer = setTimeout(() => {
        late = true
        offer()
      }, softMs)
    }
    if (hardMs !== undefined) {
      hardTimer = setTimeout(() => {
        if (serve('hard-timeout')) return
        end()
        const what = `the loader of ${show(key)} took longer than hardTimeout: ${hardMs} ms`
        reject(new SharedStateError('ERR_AS_ONE_TIMEOUT', what))
      }, hardMs)
    }
    offer()
    promise.then(
      (value) => {
        if (!waiting) return
        end()
        resolve(value)
      },
      (error: unknown) => {
        if (!waiting) {
          events.emit('load-failed', { key, error })
          return
        }
        if (!isMistake(error) && serve('load-failed', error)) return
        end()
        reject(error)
      },
    )
  })
}

/** What this process has kept for when there is nothing else. */
export function lastCopy(near: NearCache, key: string, which: { outdated: boolean }): Stale | undefined {
  const last = near.last(key, which)
  return last && { value: last.value, endedAt: last.expiresAt, until: last.graceUntil }
}

/** A mistake of the caller's is told, not covered up. */
function isMistake(error: unknown): boolean {
  return error instanceof SharedStateError && error.code === 'ERR_AS_ONE_CACHE'
}
