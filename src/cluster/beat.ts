import inspector from 'node:inspector'
import { monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { getHeapStatistics } from 'node:v8'
import type { Connections } from './connections.ts'

/** What a worker tells of itself each second: proof that its event loop turns, and the figures of its last second. */
export interface Beat {
  /** Resident set size, bytes. */
  readonly memory: number
  /** Used part of the JavaScript heap, bytes. */
  readonly heap: number
  /** CPU time per time; more than 1 when several threads are busy. */
  readonly cpu: number
  readonly requestsPerSecond: number
  /** Requests since it was started. */
  readonly requests: number
  readonly inFlight: number
  /** Open connections, idle ones included. */
  readonly connections: number
  /** Share of the last second in which the event loop was busy, 0 to 1. */
  readonly utilization: number
  /** By how much timers of the last second were late, at the 99th percentile. */
  readonly loopDelayP99Ms: number
  /** Somebody may stop it at a breakpoint at any time. */
  readonly inspected: boolean
}

export const BEAT_MS = 1_000
/** Of the timer whose lateness is measured; each firing is noted with this interval in it. */
const DELAY_RESOLUTION_MS = 20

/** Calls `tell` each second; keeps no process alive. */
export function startBeating(connections: Connections, tell: (beat: Beat) => void): void {
  const delays = monitorEventLoopDelay({ resolution: DELAY_RESOLUTION_MS })
  delays.enable()
  let before = sample()
  let memory = 0
  function sample() {
    const { user, system } = process.cpuUsage()
    return {
      at: performance.now(),
      loop: performance.eventLoopUtilization(),
      cpuMs: (user + system) / 1_000,
      requests: connections.counts().requests,
    }
  }
  setInterval(() => {
    const last = before
    const now = sample()
    before = now
    const loopDelayP99Ms = Math.max(0, delays.percentile(99) / 1e6 - DELAY_RESOLUTION_MS)
    delays.reset()
    const ms = now.at - last.at
    memory = memoryOr(memory)
    tell({
      ...connections.counts(),
      requestsPerSecond: ((now.requests - last.requests) * 1_000) / ms,
      memory,
      heap: getHeapStatistics().used_heap_size,
      cpu: (now.cpuMs - last.cpuMs) / ms,
      utilization: performance.eventLoopUtilization(now.loop, last.loop).utilization,
      loopDelayP99Ms,
      inspected: inspector.url() !== undefined,
    })
  }, BEAT_MS).unref()
}

/** Reading it takes a file descriptor. An app that has none left must not die of what its supervisor wants to know. */
function memoryOr(last: number): number {
  try {
    return process.memoryUsage.rss()
  } catch {
    return last
  }
}
