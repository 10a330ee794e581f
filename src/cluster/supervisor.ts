import { EventEmitter } from 'node:events'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { type BackoffOptions, backoffMs } from './backoff.ts'
import type { DrainTimes } from './drain.ts'
import { emptySlot, type Slot, statusOf, type WorkerStatus } from './slot.ts'
import {
  describeExit,
  type ForkOptions,
  forkWorker,
  type WorkerEvents,
  type WorkerExit,
  type WorkerHandle,
} from './worker-handle.ts'

export interface SupervisorOptions {
  readonly desired: number
  readonly backoff: BackoffOptions
  readonly stopExitCodes: readonly number[]
  readonly drain: {
    readonly delayMs: number
    readonly lingerMs: number
    readonly stopTimeoutMs: number
    readonly reloadTimeoutMs: number
  }
  /** Everything about a fork that does not depend on the slot's history. */
  forkOptions(index: number): Omit<ForkOptions, 'index' | 'generation'>
}

export interface SupervisorEvents {
  'worker-started': [worker: WorkerHandle]
  'worker-ready': [worker: WorkerHandle]
  /** `restartMs`: when the slot gets its next worker, undefined when it gets none or has one already. */
  'worker-exited': [worker: WorkerHandle, exit: WorkerExit, restartMs: number | undefined]
  /** By one of the stop exit codes: its slot stays empty until the next reload or scale. */
  'worker-parked': [worker: WorkerHandle, exit: WorkerExit]
  reloaded: [generation: number]
  'reload-failed': [error: SharedStateError]
}

interface Reload {
  readonly generation: number
  readonly pending: Set<number>
  /** The first replacement goes alone: a version that cannot start costs one fork, not a quarter of the fleet. */
  canary: boolean
  readonly done: Promise<void>
  resolve(): void
  reject(error: SharedStateError): void
}

/** Keeps `desired` slots filled: boot, crash, scale, reload and retirement are all one `reconcile()`. */
export interface Supervisor {
  /** Resolves when every slot has had its first boot and one of them serves; rejects when none does. */
  start(): Promise<void>
  scale(desired: number): void
  /** Resolves when every worker is of the new generation and the old ones have gone; rejects, the old ones serving, when the new do not start. */
  reload(): Promise<void>
  /** Drains all at once. */
  stop(): Promise<void>
  /** Kills all at once. */
  kill(): void
  status(): {
    readonly desired: number
    readonly generation: number
    readonly slots: readonly WorkerStatus[]
    readonly draining: number
  }
  readonly events: EventEmitter<SupervisorEvents>
}

/** At a stop the primary refuses connections this much earlier than its workers: what it has accepted still finds one. */
const HAND_OVER_MS = 100

export function createSupervisor(options: SupervisorOptions): Supervisor {
  const events = new EventEmitter<SupervisorEvents>()
  const slots = new Map<number, Slot>()
  /** Workers on their way out, whose slot may be taken already. */
  const leaving = new Set<WorkerHandle>()
  const booted = settleable()
  const stopped = settleable()
  let desired = options.desired
  let generation = 1
  let reload: Reload | undefined
  let reloadAgain: Promise<void> | undefined
  let stopping = false
  let started = false
  let lastReason = ''
  let retryTimer: NodeJS.Timeout | undefined

  function reconcile(): void {
    if (stopping) {
      if (slots.size === 0 && leaving.size === 0) stopped.resolve()
      return
    }
    for (let index = 0; index < desired; index++) fill(slotAt(index))
    for (const slot of slots.values()) if (slot.index >= desired) vacate(slot)
    settleReload()
    settleBoot()
    scheduleRetry()
  }

  function slotAt(index: number): Slot {
    let slot = slots.get(index)
    if (!slot) {
      slot = emptySlot(index)
      slots.set(index, slot)
    }
    return slot
  }

  function fill(slot: Slot): void {
    if (slot.next) return
    const due = performance.now() >= slot.retryAt
    if (slot.current ? mayReload(slot) || (slot.replaceWanted && due) : due && !slot.parked)
      slot.next = fork(slot)
  }

  function mayReload(slot: Slot): boolean {
    if (!reload?.pending.has(slot.index) || slot.current?.generation === reload.generation) return false
    // Waiting for the drained ones bounds how many workers, and how much memory, there are at once.
    const busy = [...slots.values()].filter((other) => other.next && other.current).length + leaving.size
    return busy < (reload.canary ? 1 : Math.max(1, Math.floor(desired / 4)))
  }

  function vacate(slot: Slot): void {
    slots.delete(slot.index)
    for (const worker of [slot.current, slot.next]) if (worker) leave(worker, options.drain.reloadTimeoutMs)
    reload?.pending.delete(slot.index)
  }

  function fork(slot: Slot): WorkerHandle {
    const worker = forkWorker(
      { ...options.forkOptions(slot.index), index: slot.index, generation },
      workerEvents,
    )
    tell('worker-started', worker)
    return worker
  }

  function leave(worker: WorkerHandle, timeoutMs: number, extraDelayMs = 0): void {
    const { lingerMs } = options.drain
    const delayMs = options.drain.delayMs + extraDelayMs
    leaving.add(worker)
    if (worker.state === 'starting') worker.kill()
    else worker.drain({ delayMs, lingerMs, timeoutMs } satisfies DrainTimes)
  }

  const workerEvents: WorkerEvents = {
    ready(worker) {
      const slot = slots.get(worker.index)
      if (!slot || slot.next !== worker) return
      const old = slot.current
      slot.current = worker
      slot.next = undefined
      slot.replaceWanted = false
      slot.firstBoot = 'ready'
      if (old) leave(old, options.drain.reloadTimeoutMs)
      if (reload?.generation === worker.generation) {
        reload.pending.delete(worker.index)
        reload.canary = false
      }
      tell('worker-ready', worker)
      reconcile()
    },
    retire(worker) {
      const slot = slots.get(worker.index)
      if (slot?.next === worker) worker.kill() // it has nothing to finish yet
      if (slot?.current !== worker) return
      slot.replaceWanted = true
      reconcile()
    },
    exited(worker, exit) {
      if (leaving.delete(worker)) {
        tell('worker-exited', worker, exit, undefined)
        reconcile()
        return
      }
      const slot = slots.get(worker.index)
      if (!slot) return
      if (slot.next === worker) bootFailed(slot, worker, exit)
      else if (slot.current === worker) crashed(slot, worker, exit)
      reconcile()
    },
  }

  function bootFailed(slot: Slot, worker: WorkerHandle, exit: WorkerExit): void {
    slot.next = undefined
    lastReason = reasonOf(worker, exit)
    if (slot.firstBoot === 'pending') slot.firstBoot = 'failed'
    if (reload?.generation === worker.generation) failReload(worker, exit)
    if (slot.current && !slot.replaceWanted) tell('worker-exited', worker, exit, undefined)
    else backOff(slot, worker, exit)
  }

  function crashed(slot: Slot, worker: WorkerHandle, exit: WorkerExit): void {
    slot.current = undefined
    slot.restarts += 1
    slot.replaceWanted = false
    if (Date.now() - worker.startedAt >= options.backoff.stableAfterMs) slot.failuresInRow = 0
    // Its replacement is on its way already: no second one, and nothing to wait for.
    if (slot.next) tell('worker-exited', worker, exit, 0)
    else backOff(slot, worker, exit)
  }

  function backOff(slot: Slot, worker: WorkerHandle, exit: WorkerExit): void {
    // A slot that a reload is going to fill, or that still has a worker, is not given up.
    slot.parked =
      !slot.current &&
      !reload?.pending.has(slot.index) &&
      exit.code !== null &&
      options.stopExitCodes.includes(exit.code)
    const delayMs = backoffMs(slot.failuresInRow, options.backoff)
    slot.failuresInRow += 1
    slot.retryAt = performance.now() + delayMs
    tell('worker-exited', worker, exit, slot.parked ? undefined : delayMs)
    if (slot.parked) tell('worker-parked', worker, exit)
  }

  function failReload(worker: WorkerHandle, exit: WorkerExit): void {
    const failed = reload as Reload
    reload = undefined
    for (const slot of slots.values()) {
      if (slot.next?.generation !== failed.generation || !slot.current) continue
      leave(slot.next, 0)
      slot.next = undefined
    }
    const error = new SharedStateError(
      'ERR_AS_ONE_RELOAD',
      `reload failed, the old workers stay: worker ${worker.index} (pid ${worker.pid}) ${reasonOf(worker, exit)}`,
    )
    tell('reload-failed', error)
    failed.reject(error)
  }

  function settleReload(): void {
    if (!reload || reload.pending.size > 0 || leaving.size > 0) return
    const finished = reload
    reload = undefined
    tell('reloaded', finished.generation)
    finished.resolve()
  }

  function settleBoot(): void {
    if (started) return
    const boots = [...slots.values()].map((slot) => slot.firstBoot)
    if (boots.includes('pending')) return
    started = true
    if (boots.includes('ready')) booted.resolve()
    else booted.reject(new SharedStateError('ERR_AS_ONE_BOOT', `no worker could start: ${lastReason}`))
  }

  function scheduleRetry(): void {
    clearTimeout(retryTimer)
    const waiting = [...slots.values()]
      .filter((slot) => !slot.next && (slot.current ? slot.replaceWanted : !slot.parked))
      .map((slot) => slot.retryAt)
    if (waiting.length > 0)
      retryTimer = setTimeout(reconcile, Math.max(1, Math.min(...waiting) - performance.now()))
  }

  function tell<Event extends keyof SupervisorEvents>(event: Event, ...args: SupervisorEvents[Event]): void {
    if (channels.cluster.hasSubscribers) channels.cluster.publish({ event, details: args })
    ;(events.emit as (event: Event, ...args: SupervisorEvents[Event]) => boolean)(event, ...args)
  }

  function beginReload(): Promise<void> {
    if (stopping) return Promise.reject(new SharedStateError('ERR_AS_ONE_CLOSED', 'the cluster is stopping'))
    generation += 1
    const { promise, resolve, reject } = settleable()
    reload = { generation, pending: new Set(slots.keys()), canary: true, done: promise, resolve, reject }
    for (const slot of slots.values()) {
      slot.parked = false
      slot.retryAt = 0 // a slot that waits out a crash of the old version has no reason to wait for the new one
    }
    reconcile()
    return promise
  }

  return {
    events,
    start() {
      reconcile()
      return booted.promise
    },
    scale(next) {
      if (stopping) return
      desired = next
      for (const slot of slots.values()) slot.parked = false
      reconcile()
    },
    reload() {
      if (!reload) return beginReload()
      // A call during a reload may be for code that is newer than what that one has started: one more run serves all such calls.
      reloadAgain ??= reload.done
        .catch(() => {})
        .then(() => {
          reloadAgain = undefined
          return beginReload()
        })
      return reloadAgain
    },
    stop() {
      if (!stopping) {
        stopping = true
        clearTimeout(retryTimer)
        booted.reject(
          new SharedStateError('ERR_AS_ONE_CLOSED', 'the cluster was stopped before it had started'),
        )
        reload?.reject(new SharedStateError('ERR_AS_ONE_CLOSED', 'the cluster stopped during the reload'))
        reload = undefined
        for (const slot of slots.values()) {
          for (const worker of [slot.current, slot.next])
            if (worker) leave(worker, options.drain.stopTimeoutMs, HAND_OVER_MS)
        }
        slots.clear()
        reconcile()
      }
      return stopped.promise
    },
    kill() {
      for (const worker of leaving) worker.kill()
      for (const slot of slots.values()) {
        slot.current?.kill()
        slot.next?.kill()
      }
    },
    status() {
      const byIndex = [...slots.values()].sort((a, b) => a.index - b.index)
      return { desired, generation, draining: leaving.size, slots: byIndex.map(statusOf) }
    },
  }
}

function reasonOf(worker: WorkerHandle, exit: WorkerExit): string {
  const how = `${describeExit(exit)} before it was ready`
  return worker.reason === '' ? how : `${how}: ${worker.reason}`
}

interface Settleable {
  readonly promise: Promise<void>
  resolve(): void
  reject(error: Error): void
}

function settleable(): Settleable {
  let resolve = (): void => {}
  let reject = (_error: Error): void => {}
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  promise.catch(() => {}) // whoever asked has a promise of their own from it
  return { promise, resolve, reject }
}
