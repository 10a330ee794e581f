import type { SendHandle } from 'node:child_process'
import cluster from 'node:cluster'
import { builtFile } from '../core/built-file.ts'
import { messageOf } from '../core/errors.ts'
import { setProcessRole } from '../core/role.ts'
import { acknowledgeOnce } from './acknowledge-once.ts'
import { holdBackSignals } from './app-signals.ts'
import { startBeating } from './beat.ts'
import { trackConnections } from './connections.ts'
import { type ToPrimary, type ToWorker, unwrap, wrap } from './control.ts'
import { type DrainTimes, drain, type ShutdownHook } from './drain.ts'
import type { SendConnection } from './pass-on.ts'

/** A worker whose primary has died has this long to finish what it has begun. */
const ORPHAN: DrainTimes = { delayMs: 0, lingerMs: 1_000, timeoutMs: 20_000 }

/** The worker's side of supervision; at most one in a process. */
export interface WorkerAgent {
  readonly index: number
  /** False when the app has been taken on already. */
  claim(): boolean
  tellReady(): void
  /** Reports why the app cannot run and ends the process. */
  tellFailed(error: unknown): void
  addShutdownHook(hook: ShutdownHook): void
}

/** On globalThis, since the agent and the app may load two copies of this package. */
const AGENT_SLOT: unique symbol = Symbol.for('as-one.agent.1') as never
type AgentGlobal = { [AGENT_SLOT]?: WorkerAgent }

/** Undefined in a process that none of our primaries has started. */
export function workerAgent(): WorkerAgent | undefined {
  return (globalThis as AgentGlobal)[AGENT_SLOT]
}

export function startWorkerAgent(): WorkerAgent {
  setProcessRole('worker')
  acknowledgeOnce(process)
  const connections = trackConnections()
  const hooks: ShutdownHook[] = []
  let draining = false
  let claimed = false

  const tell = (message: ToPrimary, sent?: () => void): void => {
    if (!process.connected) return
    process.send?.(wrap(message), undefined, undefined, () => sent?.()) // the callback also takes the error of a primary that has just died
  }
  const passOn: SendConnection = (connection, sent) => {
    if (!process.connected) sent(new Error('the primary has gone'))
    else process.send?.(wrap({ type: 'connection' }), connection as SendHandle, undefined, sent)
  }
  const drainAndExit = (
    times: DrainTimes,
    exitCode: number,
    { appEnd = 'signal', send }: { appEnd?: 'signal' | 'message'; send?: SendConnection | undefined } = {},
  ): void => {
    if (draining) return
    draining = true
    const exit = (): void => process.exit(process.exitCode ?? exitCode)
    const deadline = performance.now() + times.timeoutMs
    setTimeout(() => process.exit(1), times.timeoutMs + 500).unref() // whatever it is that never ends
    void drain(connections, times, hooks, send)
      .then(() => {
        // An app that has handlers of its own for its end gets what is left of the time; the loop may empty before.
        process.channel?.unref()
        setTimeout(exit, Math.max(0, deadline - performance.now())).unref()
        return appSignals.deliver(appEnd)
      })
      .then(exit)
  }

  // A Ctrl-C in a terminal reaches every process of the group; the primary alone decides what follows.
  const appSignals = holdBackSignals((signal) => {
    if (signal === 'SIGINT') return
    if (process.connected) tell({ type: 'retire' })
    else drainAndExit(ORPHAN, 0)
  })
  process.on('SIGHUP', () => {}) // the same goes for a terminal that is closed

  startBeating(connections, (beat) => tell({ type: 'beat', beat }))

  process.on('message', (received) => {
    const message = unwrap<ToWorker>(received)
    if (message?.type === 'give-signs') setInterval(() => tell({ type: 'sign' }), message.everyMs).unref()
    if (message?.type !== 'drain') return
    drainAndExit(message, 0, { appEnd: message.appEnd, send: message.passOn ? passOn : undefined })
  })

  // Without these a worker dies of EPIPE at its next log line once the primary, which reads its stderr, is gone.
  process.stdout.on('error', () => {})
  process.stderr.on('error', () => {})

  // Node's own listener would exit at once, and with it every request in flight.
  cluster.worker?.on('disconnect', () => {
    if (cluster.worker) cluster.worker.exitedAfterDisconnect = true
    drainAndExit(ORPHAN, 1)
  })

  const agent: WorkerAgent = {
    index: Number(process.env.AS_ONE_WORKER),
    claim() {
      const first = !claimed
      claimed = true
      return first
    },
    tellReady: () => tell({ type: 'ready' }),
    tellFailed(error) {
      process.exitCode = 1
      tell({ type: 'failed', message: messageOf(error), stack: readableStack(error) }, () => process.exit(1))
      setTimeout(() => process.exit(1), 1_000).unref()
    },
    addShutdownHook: (hook) => void hooks.push(hook),
  }
  appSignals.begin()
  ;(globalThis as AgentGlobal)[AGENT_SLOT] = agent
  return agent
}

const HERE = builtFile('').href

/**
 * The stack without the frames of Node and of this package, as long as one of the app remains: those lead to the line
 * to mend. A mistake that has a code of ours says itself what to do.
 */
function readableStack(error: unknown): string | undefined {
  if (!(error instanceof Error) || error.stack === undefined) return undefined
  const known = /^ERR_(AS_ONE_|MODULE_NOT_FOUND$)/.test((error as NodeJS.ErrnoException).code ?? '')
  const lines = error.stack.split('\n')
  const frames = lines.filter((line) => /^ {4}at /.test(line))
  const own = frames.filter((line) => !/[( ](node:|<anonymous>)/.test(line) && !line.includes(HERE))
  if (!known && own.length === 0) return error.stack
  const words = lines.filter((line) => !frames.includes(line)).join('\n')
  return [known ? words.replace(/^SharedStateError: /, '') : words, ...own].join('\n')
}
