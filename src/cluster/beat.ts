import inspector from 'node:inspector'
import { performance } from 'node:perf_hooks'
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
  /** Somebody may stop it at a breakpoint at any time. */
  readonly inspected: boolean
}

export const BEAT_MS = 1_000

/** Calls `tell` each second; keeps no process alive. */
export function startBeating(connections: Connections, tell: (beat: Beat) => void): void {
  let before = sample()
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
    const ms = now.at - last.at
    tell({
      ...connections.counts(),
      requestsPerSecond: ((now.requests - last.requests) * 1_000) / ms,
      memory: process.memoryUsage.rss(),
      heap: getHeapStatistics().used_heap_size,
      cpu: (now.cpuMs - last.cpuMs) / ms,
      utilization: performance.eventLoopUtilization(now.loop, last.loop).utilization,
      inspected: inspector.url() !== undefined,
    })
  }, BEAT_MS).unref()
}
