import cluster, { type Worker } from 'node:cluster'
import type { Socket } from 'node:net'
import { messageOf } from '../core/errors.ts'
import { awakeTimeout } from './awake-timeout.ts'
import { BEAT_MS, type Beat } from './beat.ts'
import { type ToPrimary, type ToWorker, unwrap, wrap } from './control.ts'
import type { DrainTimes } from './drain.ts'
import { signEveryMs, watchForHang } from './hang-watch.ts'
import type { Connection } from './listeners.ts'
import { recycleSpread } from './recycle.ts'
import { redispatchOnDeath } from './redispatch.ts'

export type WorkerState = 'starting' | 'ready' | 'draining' | 'dead'

/** The primary's view of one worker process. */
export interface WorkerHandle {
  readonly index: number
  readonly generation: number
  readonly pid: number
  readonly state: WorkerState
  readonly startedAt: number
  /** On a port of the cluster, since it has been started. */
  readonly listens: boolean
  /** Of its first listening socket in the cluster. */
  readonly address: WorkerAddress | undefined
  /** What it last told of itself. */
  readonly beat: Beat | undefined
  /** It will soon have been silent for as long as it may. */
  readonly silent: boolean
  /** Its own factor for the limits after which it is replaced. */
  readonly spread: number
  /** Why it could not be started or run, as it has told us over IPC; its stderr does not have it. */
  readonly report: string | undefined
  /** Why it ended or will: its own report, else its last stderr lines. */
  readonly reason: string
  /** Asks it to drain and kills it when it takes longer than its deadline. */
  drain(times: DrainTimes, how: { readonly appEnd: 'signal' | 'message'; readonly passOn: boolean }): void
  kill(): void
}

/** A unix socket has a path alone. */
export type WorkerAddress =
  | { readonly port: number; readonly host: string | undefined }
  | { readonly path: string }

export interface WorkerEvents {
  ready(worker: WorkerHandle): void
  retire(worker: WorkerHandle): void
  beat(worker: WorkerHandle, beat: Beat): void
  /** `worker.silent` has changed. */
  silence(worker: WorkerHandle): void
  exited(worker: WorkerHandle, exit: WorkerExit): void
}

export interface WorkerExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** It had not stopped by its deadline and was killed. */
  readonly forced: boolean
}

/**
 * When a worker counts as ready: `told` by `runCluster`, as soon as it is `listening`, or by the `message` 'ready'. In
 * each case what `runCluster` says is believed.
 */
export type ReadyWhen = 'told' | 'listening' | 'message'

export type OnOutput = (index: number, stream: 'stdout' | 'stderr', chunk: Buffer) => void

export interface ForkOptions {
  readonly index: number
  readonly generation: number
  readonly env: Readonly<Record<string, string>>
  readonly readyTimeoutMs: number
  readonly readyWhen: ReadyWhen
  /** A ready worker that says nothing for this long is killed. */
  readonly hangTimeoutMs: number | undefined
  /** How long before that its silence is told. */
  readonly hangLeadMs: (timeoutMs: number) => number
  /** Taken for ready after this long though it does not listen: a queue worker never will. Undefined: it must. */
  readonly settleMs?: number | undefined
  readonly onListening: () => void
  /** Gets what it writes. Default: stdout is inherited, stderr passed on. */
  readonly onOutput?: OnOutput | undefined
  /** As soon as it has a pid; what is returned is called at its end. */
  readonly onStarted: (pid: number) => () => void
  /** The worker's end of the bus channel is its fd 4. */
  readonly onChannel: (socket: Socket) => void
  /** Gets an idle connection of a worker that drains. */
  readonly onConnection: (connection: Connection) => void
}

/** For people. */
export function describeExit({ code, signal }: Pick<WorkerExit, 'code' | 'signal'>): string {
  if (signal) return `was ended by ${signal}`
  // What did not even become a process has a negative error number of the system, or nothing.
  return code === null || code < 0 ? 'could not be started' : `exited with code ${code}`
}

const STDERR_TAIL_BYTES = 4_096
/** Between a drain's deadline, which the worker keeps itself, and SIGKILL. */
const KILL_AFTER_MS = 1_000
const STDERR_WAIT_MS = 200

/** Never throws: a worker that cannot be started has exited, like any other that fails. */
export function forkWorker(options: ForkOptions, events: WorkerEvents): WorkerHandle {
  let worker: Worker
  try {
    worker = cluster.fork(options.env)
  } catch (error) {
    return stillborn(options, events, messageOf(error))
  }
  redispatchOnDeath(worker)
  const child = worker.process
  const ended = child.pid === undefined ? undefined : options.onStarted(child.pid)
  const startedAt = Date.now()
  let state: WorkerState = 'starting'
  let report: string | undefined
  let failure: string | undefined
  let tail = ''
  let forced = false
  let listens = false
  let address: WorkerAddress | undefined
  let beat: Beat | undefined
  let silent = false
  const spread = recycleSpread()
  let stopKilling = (): void => {}
  const stopReadyTimer = awakeTimeout(() => {
    report = `it was not ready within ${options.readyTimeoutMs} ms (readyTimeout): ${options.readyWhen === 'message' ? "the app has not sent 'ready'" : 'the app has not come to listen'}`
    child.kill('SIGKILL')
  }, options.readyTimeoutMs)

  let settleTimer: NodeJS.Timeout | undefined
  const stopWaiting = (): void => {
    stopReadyTimer()
    clearTimeout(settleTimer)
  }

  const handle: WorkerHandle = {
    index: options.index,
    generation: options.generation,
    pid: child.pid ?? 0,
    startedAt,
    get state() {
      return state
    },
    get listens() {
      return listens
    },
    get address() {
      return address
    },
    get beat() {
      return beat
    },
    get silent() {
      return silent
    },
    spread,
    get report() {
      return report ?? (child.pid === undefined ? failure : undefined)
    },
    get reason() {
      return report ?? (tail.trim() || (failure ?? ''))
    },
    drain(times, how) {
      if (state === 'draining' || state === 'dead') return
      stopWaiting()
      state = 'draining'
      hangWatch?.stop()
      stopKilling = awakeTimeout(() => {
        forced = true
        child.kill('SIGKILL')
      }, times.timeoutMs + KILL_AFTER_MS)
      send({ type: 'drain', ...times, ...how })
    },
    kill() {
      if (state !== 'dead') child.kill('SIGKILL')
    },
  }

  const { hangTimeoutMs } = options
  const hangWatch =
    hangTimeoutMs !== undefined && child.pid !== undefined
      ? watchForHang({
          pid: child.pid,
          timeoutMs: hangTimeoutMs,
          leadMs: () => options.hangLeadMs(hangTimeoutMs),
          onSilence(to) {
            silent = to && listens
            events.silence(handle)
          },
          onHang() {
            if (!listens) return // a script that serves nobody may compute as long as it likes
            report = `its event loop has been blocked for ${hangTimeoutMs} ms (hangTimeout), so it was killed`
            child.kill('SIGKILL')
          },
        })
      : undefined

  const heard = (): void => hangWatch?.heard(beat?.inspected ?? false)
  const becomeReady = (): void => {
    if (state !== 'starting') return
    stopWaiting()
    state = 'ready'
    heard()
    if (hangTimeoutMs !== undefined && signEveryMs(hangTimeoutMs) < BEAT_MS)
      send({ type: 'give-signs', everyMs: signEveryMs(hangTimeoutMs) })
    events.ready(handle)
  }
  const send = (message: ToWorker): void => {
    if (worker.isConnected()) child.send(wrap(message), () => {}) // it died first: 'exit' says so
  }

  child.on('message', (received: unknown, sent: unknown) => {
    const message = unwrap<ToPrimary>(received)
    if (message?.type === 'ready') becomeReady()
    else if (received === 'ready' && options.readyWhen === 'message') becomeReady()
    else if (message?.type === 'sign') {
      if (state === 'ready') heard()
    } else if (message?.type === 'retire') events.retire(handle)
    else if (message?.type === 'connection') options.onConnection(sent as Connection)
    else if (message?.type === 'beat') {
      // The first one comes when the script has been evaluated and its event loop turns, however busy the machine is.
      if (!beat && options.settleMs !== undefined)
        settleTimer = setTimeout(becomeReady, Math.max(0, options.settleMs - BEAT_MS))
      beat = message.beat
      if (state !== 'ready') return
      heard()
      events.beat(handle, beat)
    } else if (message?.type === 'failed')
      report = message.stack?.includes(message.message) ? message.stack : message.message
  })
  worker.on('listening', (on) => {
    listens = true
    address ??= on.port > 0 ? { port: on.port, host: on.address ?? undefined } : { path: on.address }
    options.onListening()
    if (options.readyWhen === 'listening') becomeReady()
  })
  // Both emit it: a fork that failed, and Node's own message to a worker that has just died (EPIPE).
  const onError = (error: Error): void => {
    failure ??= error.message
  }
  worker.on('error', onError)
  child.on('error', onError)
  const { onOutput } = options
  if (onOutput) child.stdout?.on('data', (chunk: Buffer) => onOutput(options.index, 'stdout', chunk))
  child.stderr?.on('data', (chunk: Buffer) => {
    if (onOutput) onOutput(options.index, 'stderr', chunk)
    else process.stderr.write(chunk)
    tail = (tail + chunk.toString()).slice(-STDERR_TAIL_BYTES)
  })
  // None at all when the system had no file descriptors left for it; 'close' follows.
  const stdio = child.stdio as readonly unknown[] | undefined
  const channel = stdio?.[4] as Socket | null | undefined
  if (channel) options.onChannel(channel)

  const onExit = (code: number | null, signal: NodeJS.Signals | null): void => {
    if (state === 'dead') return
    stopWaiting()
    hangWatch?.stop()
    stopKilling()
    ended?.()
    state = 'dead'
    events.exited(handle, { code, signal, forced })
  }
  // By 'close' the last of stderr has been read, and it holds the reason; a grandchild that has inherited stderr may
  // keep 'close' away for ever, so 'exit' waits for it only so long.
  child.once('close', onExit)
  child.once('exit', (code, signal) => void setTimeout(onExit, STDERR_WAIT_MS, code, signal))
  return handle
}

/** The system had no room for another process. */
function stillborn({ index, generation }: ForkOptions, events: WorkerEvents, reason: string): WorkerHandle {
  const handle: WorkerHandle = {
    index,
    generation,
    pid: 0,
    state: 'dead',
    startedAt: Date.now(),
    listens: false,
    address: undefined,
    beat: undefined,
    silent: false,
    spread: 1,
    report: reason,
    reason,
    drain() {},
    kill() {},
  }
  setImmediate(() => events.exited(handle, { code: null, signal: null, forced: false }))
  return handle
}
