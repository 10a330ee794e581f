import type { EventEmitter } from 'node:events'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { SupervisorEvents } from './supervisor.ts'
import { describeExit, type WorkerHandle } from './worker-handle.ts'

/** A slot that crashes again and again gets one line a minute, not one per crash. */
const QUIET_MS = 60_000

/**
 * Turns what goes wrong into lines on stderr, the only words the runner says unasked: at 3 a.m. a crash that nobody
 * subscribed to must still be in the log. Returns the function that ends it.
 */
export function putIntoWords(events: EventEmitter<SupervisorEvents>): () => void {
  const lastSaid = new Map<number, { at: number; unsaid: number }>()
  /** Until a worker is ready. If none ever is, the error of the start says it all, in one line. */
  let held: string[] | undefined = []
  const sayOrHold = (line: string): void => {
    if (held) held.push(line)
    else say(line)
  }
  events.once('worker-ready', () => {
    const lines = held ?? []
    held = undefined
    lines.forEach(say)
  })
  events.on('worker-exited', (worker, exit, restartMs) => {
    if (exit.forced) say(`${named(worker)} did not stop in time and was killed`)
    if (restartMs === undefined) return
    const last = lastSaid.get(worker.index)
    if (last && performance.now() - last.at < QUIET_MS) {
      last.unsaid += 1
      return
    }
    const more = last && last.unsaid > 0 ? ` (and ${last.unsaid} times before that)` : ''
    lastSaid.set(worker.index, { at: performance.now(), unsaid: 0 })
    const next = restartMs === 0 ? 'its replacement has been started' : `next attempt in ${restartMs} ms`
    sayOrHold(`${named(worker)} ${describeExit(exit)}${more}, ${next}${reported(worker)}`)
  })
  events.on('worker-parked', (worker, exit) =>
    sayOrHold(
      `${named(worker)} ${describeExit(exit)}, one of backoff.stopExitCodes: not restarted before the next reload or scale${reported(worker)}`,
    ),
  )
  events.on('reload-failed', (error) => say(error.message))
  return putRedisIntoWords()
}

/** What becomes of the managed local Redis. Returns the function that ends it. */
export function putRedisIntoWords(): () => void {
  const onRedis = (message: unknown): void => {
    const { event, error, pid } = message as { event: string; error?: unknown; pid?: number }
    if (event === 'local-redis-down') say(messageOf(error))
    else if (event === 'local-redis-restarted')
      say(`the managed local Redis died and is back with its data (pid ${pid})`)
  }
  channels.redis.subscribe(onRedis)
  return () => channels.redis.unsubscribe(onRedis)
}

/** A script of the command line that may not need one. */
export function sayWithoutRedis(reason: string): void {
  say(`runs without Redis, so shared state will fail: ${reason}`)
}

function named(worker: WorkerHandle): string {
  return worker.pid === 0 ? `worker ${worker.index}` : `worker ${worker.index} (pid ${worker.pid})`
}

/** Its stderr has been passed on already. */
function reported({ report }: WorkerHandle): string {
  return report === undefined ? '' : `: ${report}`
}

function say(line: string): void {
  process.stderr.write(`as-one: ${line}\n`)
}
