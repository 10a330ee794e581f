import type { EventEmitter } from 'node:events'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { SupervisorEvents } from './supervisor.ts'
import type { WorkerExit } from './worker-handle.ts'

/** A slot that crashes again and again gets one line a minute, not one per crash. */
const QUIET_MS = 60_000

/**
 * Turns what goes wrong into lines on stderr, the only words the runner says unasked: at 3 a.m. a crash that nobody
 * subscribed to must still be in the log. Returns the function that ends it.
 */
export function putIntoWords(events: EventEmitter<SupervisorEvents>): () => void {
  const lastSaid = new Map<number, { at: number; unsaid: number }>()
  events.on('worker-exited', (worker, exit, restartMs) => {
    if (exit.forced) say(`worker ${worker.index} (pid ${worker.pid}) did not stop in time and was killed`)
    if (restartMs === undefined) return
    const last = lastSaid.get(worker.index)
    if (last && Date.now() - last.at < QUIET_MS) {
      last.unsaid += 1
      return
    }
    const more = last && last.unsaid > 0 ? ` (and ${last.unsaid} times before that)` : ''
    lastSaid.set(worker.index, { at: Date.now(), unsaid: 0 })
    say(`worker ${worker.index} (pid ${worker.pid}) ${ending(exit)}${more}, next attempt in ${restartMs} ms`)
  })
  events.on('reload-failed', (error) => say(error.message))
  const onRedis = (message: unknown): void => {
    const { event, error, pid } = message as { event: string; error?: unknown; pid?: number }
    if (event === 'local-redis-down') say(messageOf(error))
    else if (event === 'local-redis-restarted')
      say(`the managed local Redis died and is back with its data (pid ${pid})`)
  }
  channels.redis.subscribe(onRedis)
  return () => channels.redis.unsubscribe(onRedis)
}

function ending({ code, signal }: WorkerExit): string {
  return signal ? `was ended by ${signal}` : `exited with code ${code}`
}

function say(line: string): void {
  process.stderr.write(`as-one: ${line}\n`)
}
