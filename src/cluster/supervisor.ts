import { EventEmitter } from 'node:events'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { type BackoffOptions, backoffMs } from './backoff.ts'
import type { DrainTimes } from './drain.ts'
import { type RecycleLimits, recycleReason } from './recycle.ts'
import { emptySlot, type Slot, statusOf, type WorkerStatus } from './slot.ts'
import { createSpares, spareLeadMs } from './spare.ts'
import {
  describeExit,
  type ForkOptions,
  forkWorker,
  type WorkerAddress,
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
  readonly recycle: RecycleLimits
  /** How an app learns, after its drain, that it ends. */
  readonly appEnd: 'signal' | 'message'
  /** Whether another worker can go on with the idle connections of one that leaves. */
  readonly canPassOn: boolean
  /** Everything about a fork that does not depend on the slot's history. */
  forkOptions(index: number): Omit<ForkOptions, 'index' | 'generation' | 'hangLeadMs'>
}

export interface SupervisorEvents {
  'worker-started': [worker: WorkerHandle]
  'worker-ready': [worker: WorkerHandle]
  /** `restartMs`: when the slot gets its next worker, undefined when it gets none or has one already. */
  'worker-exited': [worker: WorkerHandle, exit: WorkerExit, restartMs: number | undefined]
  /** By one of the stop exit codes: its slot stays empty until the next reload or scale. */
  'worker-parked': [worker: WorkerHandle, exit: WorkerExit]
  /** Its replacement is on the way, though it works. */
  'worker-recycled': [worker: WorkerHandle, reason: string]
  reloaded: [generation: number]
  'reload-failed': [error: SharedStateError]
}

/**
 * `at-once`: every new worker is ready before the first old one drains, so that a failure leaves only old ones; takes
 * the memory of both. `rolling`: slot by slot, where there is not that much. `stop-first`: a restart.
 */
type Replacement = 'at-once' | 'rolling' | 'stop-first'

interface Reload {
  readonly how: Replacement
  readonly generation: number
  readonly pending: Set<number>
  /** The first replacement goes alone: a version that cannot start costs one fork, not a quarter of the fleet. */
  canary: boolean
  /** Of a rolling one, that has replaced some already and cannot take that back. */
  attemptsLeft: number
  resolve(): void
  reject(error: SharedStateError): void
}

/** Keeps `desired` slots filled: boot, crash, scale, reload and retirement are all one `reconcile()`. */
export interface Supervisor {
  /** Resolves when every slot has had its first boot and one of them serves; rejects when none does. */
  start(): Promise<void>
  scale(desired: number): void
  /** Not while another one runs. Resolves when every worker is of the new generation and the old ones have gone; rejects, the old ones serving, when the new do not start. */
  reload(): Promise<void>
  /** Drains all, then starts all anew; in between nobody serves. Rejects when a new one does not start; it is tried again with backoff. */
  restart(): Promise<void>
  /** Drains all at once. */
  stop(): Promise<void>
  /** Kills all at once. */
  kill(): void
  status(): {
    readonly desired: number
    readonly generation: number
    readonly slots: readonly WorkerStatus[]
    readonly draining: number
    readonly address: WorkerAddress | undefined
  }
  readonly events: EventEmitter<SupervisorEvents>
}

/** At a stop the primary refuses connections this much earlier than its workers: what it has accepted still finds one. */
const HAND_OVER_MS = 100
/** Of a worker that has not told yet. */
const UNKNOWN_MEMORY_BYTES = 100 * 2 ** 20
const MEMORY_MARGIN = 1.25
/** Once a version has come up in one slot, what keeps it from another one may be of the moment. */
const ROLLING_ATTEMPTS = 3

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
  let stopping = false
  let started = false
  let lastReason = ''
  /** How long the last worker took from its fork until it was ready. */
  let bootMs = Number.POSITIVE_INFINITY
  const spares = createSpares({
    fork,
    leave: (worker) => leave(worker, options.drain.reloadTimeoutMs),
    hasRoomFor,
  })
  let retryTimer: NodeJS.Timeout | undefined

  function reconcile(): void {
    if (stopping) {
      if (slots.size === 0 && leaving.size === 0) stopped.resolve()
      return
    }
    for (let index = 0; index < desired; index++) fill(slotAt(index))
    for (const slot of slots.values()) if (slot.index >= desired) vacate(slot)
    spares.keep(slots.values(), !reload)
    takeOver()
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
    if (slot.next || (reload?.how === 'stop-first' && leaving.size > 0)) return
    const due = performance.now() >= slot.retryAt
    if (!due) return
    if (slot.current ? mayReload(slot) || slot.replaceWanted : !slot.parked) slot.next = fork(slot)
  }

  function mayReload(slot: Slot): boolean {
    if (!reload?.pending.has(slot.index) || slot.current?.generation === reload.generation) return false
    const replacing = [...slots.values()].filter((other) => other.next && other.current)
    // One by one, waiting for the drained ones bounds how much memory there is in use at once.
    const busy =
      reload.how === 'at-once'
        ? replacing.filter((other) => other.next?.state === 'starting').length
        : replacing.length + leaving.size
    return busy < (reload.canary ? 1 : Math.max(1, Math.floor(desired / 4)))
  }

  /** Limits replace one worker at a time. */
  function isReplacing(): boolean {
    if (reload || leaving.size > 0) return true
    return [...slots.values()].some((slot) => slot.replaceWanted || slot.spare || !slot.current)
  }

  function vacate(slot: Slot): void {
    slots.delete(slot.index)
    for (const worker of [slot.current, slot.next, slot.spare])
      if (worker) leave(worker, options.drain.reloadTimeoutMs)
    reload?.pending.delete(slot.index)
  }

  function fork(slot: Slot): WorkerHandle {
    const worker = forkWorker(
      {
        ...options.forkOptions(slot.index),
        index: slot.index,
        generation,
        hangLeadMs: (timeoutMs) => spareLeadMs(timeoutMs, bootMs),
      },
      workerEvents,
    )
    tell('worker-started', worker)
    return worker
  }

  /** A replaced worker need not go on accepting: no load balancer has to notice, the primary's port stays. */
  function leave(worker: WorkerHandle, timeoutMs: number, delayMs = 0): void {
    const { lingerMs } = options.drain
    leaving.add(worker)
    // One that listens may have been given a request before it counts as ready.
    if (worker.state === 'starting' && !worker.listens) worker.kill()
    else
      worker.drain({ delayMs, lingerMs, timeoutMs } satisfies DrainTimes, {
        appEnd: options.appEnd,
        passOn: options.canPassOn && !stopping && reload?.how !== 'stop-first',
      })
  }

  const workerEvents: WorkerEvents = {
    ready(worker) {
      const slot = slots.get(worker.index)
      if (!slot || (slot.next !== worker && slot.spare !== worker)) return
      bootMs = Date.now() - worker.startedAt
      if (slot.spare === worker) return tell('worker-ready', worker)
      slot.firstBoot = 'ready'
      if (reload?.generation === worker.generation) reload.canary = false
      if (!waitsForOthers(slot)) promote(slot)
      tell('worker-ready', worker)
      reconcile()
    },
    retire(worker) {
      const slot = slots.get(worker.index)
      if (slot?.next === worker && worker.state === 'starting') worker.kill() // it has nothing to finish yet
      if (slot?.spare === worker) spares.drop(slot)
      if (slot?.current !== worker) return
      slot.replaceWanted = true
      reconcile()
    },
    silence(worker) {
      if (slots.get(worker.index)?.current === worker) reconcile()
    },
    beat(worker, beat) {
      const slot = slots.get(worker.index)
      if (slot?.current !== worker || slot.replaceWanted || isReplacing()) return
      const ageMs = Date.now() - worker.startedAt
      const reason = recycleReason(options.recycle, { beat, ageMs, spread: worker.spread })
      if (reason === undefined) return
      slot.replaceWanted = true
      tell('worker-recycled', worker, reason)
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
      if (slot.spare === worker) {
        spares.failed(slot)
        tell('worker-exited', worker, exit, undefined)
      } else if (slot.next === worker) bootFailed(slot, worker, exit)
      else if (slot.current === worker) crashed(slot, worker, exit)
      reconcile()
    },
  }

  function waitsForOthers(slot: Slot): boolean {
    const isPart = reload?.how === 'at-once' && slot.next?.generation === reload.generation
    return isPart && slot.current !== undefined && reload?.pending.has(slot.index) === true
  }

  function promote(slot: Slot): void {
    const { current: old, next } = slot
    if (!next) return
    slot.current = next
    slot.next = undefined
    slot.replaceWanted = false
    if (reload?.generation === next.generation) reload.pending.delete(slot.index)
    if (old) leave(old, options.drain.reloadTimeoutMs)
  }

  /** Once all new workers serve, the old ones go. */
  function takeOver(): void {
    if (reload?.how !== 'at-once') return
    const waiting = [...reload.pending].map((index) => slots.get(index))
    if (waiting.every((slot) => slot?.next?.state === 'ready' && waitsForOthers(slot)))
      for (const slot of waiting) if (slot) promote(slot)
  }

  function bootFailed(slot: Slot, worker: WorkerHandle, exit: WorkerExit): void {
    slot.next = undefined
    lastReason = reasonOf(worker, exit)
    if (slot.firstBoot === 'pending') slot.firstBoot = 'failed'
    const isTriedAgain = reload?.generation === worker.generation && !failsReload(reload)
    if (!isTriedAgain && reload?.generation === worker.generation) failReload(worker, exit)
    if (slot.current && !slot.replaceWanted && !isTriedAgain) tell('worker-exited', worker, exit, undefined)
    else backOff(slot, worker, exit)
  }

  function crashed(slot: Slot, worker: WorkerHandle, exit: WorkerExit): void {
    slot.current = undefined
    slot.restarts += 1
    slot.replaceWanted = false
    if (Date.now() - worker.startedAt >= options.backoff.stableAfterMs) slot.failuresInRow = 0
    spares.use(slot)
    if (slot.next?.state === 'ready') promote(slot)
    // Its replacement is on its way already: no second one, and nothing to wait for.
    if (slot.next ?? slot.current) tell('worker-exited', worker, exit, 0)
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

  function failsReload(of: Reload): boolean {
    if (of.how !== 'rolling' || of.canary) return true
    of.attemptsLeft -= 1
    return of.attemptsLeft <= 0
  }

  function failReload(worker: WorkerHandle, exit: WorkerExit): void {
    const failed = reload as Reload
    reload = undefined
    for (const slot of slots.values()) {
      if (slot.next?.generation !== failed.generation || !slot.current) continue
      leave(slot.next, options.drain.reloadTimeoutMs)
      slot.next = undefined
    }
    const error = new SharedStateError(
      'ERR_AS_ONE_RELOAD',
      `${failed.how === 'stop-first' ? 'restart failed' : `reload failed, ${whoStays(failed)}`}: worker ${worker.index} (pid ${worker.pid}) ${reasonOf(worker, exit)}`,
    )
    tell('reload-failed', error)
    failed.reject(error)
  }

  /** In a rolling one some old workers may have gone already. */
  function whoStays({ generation: failed }: Reload): string {
    const replaced = [...slots.values()].filter((slot) => slot.current?.generation === failed).length
    return replaced === 0
      ? 'the old workers stay'
      : `${replaced} of ${slots.size} workers run the new version already, the others stay`
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
      .filter((slot) => !slot.next && (slot.current ? slot.replaceWanted || mayReload(slot) : !slot.parked))
      .map((slot) => slot.retryAt)
    if (waiting.length > 0)
      retryTimer = setTimeout(reconcile, Math.max(1, Math.min(...waiting) - performance.now()))
  }

  function tell<Event extends keyof SupervisorEvents>(event: Event, ...args: SupervisorEvents[Event]): void {
    if (channels.cluster.hasSubscribers) channels.cluster.publish({ event, details: args })
    ;(events.emit as (event: Event, ...args: SupervisorEvents[Event]) => boolean)(event, ...args)
  }

  /** Whether another worker for each fits beside those there are, with a margin for what they have not yet allocated. */
  function hasRoomFor(some: Iterable<Slot>): boolean {
    const memories = [...some].map(({ current }) => current?.beat?.memory ?? UNKNOWN_MEMORY_BYTES)
    return process.availableMemory() > MEMORY_MARGIN * memories.reduce((sum, each) => sum + each, 0)
  }

  function beginReload(how: Replacement): Promise<void> {
    if (stopping) return Promise.reject(new SharedStateError('ERR_AS_ONE_CLOSED', 'the cluster is stopping'))
    generation += 1
    const { promise, resolve, reject } = settleable()
    const pending = new Set(slots.keys())
    reload = { how, generation, pending, canary: true, attemptsLeft: ROLLING_ATTEMPTS, resolve, reject }
    for (const slot of slots.values()) {
      slot.parked = false
      slot.falseAlarms = 0
      slot.spareAt = 0
      spares.drop(slot) // it is of the old version
      slot.retryAt = 0 // a slot that waits out a crash of the old version has no reason to wait for the new one
      if (how !== 'stop-first') continue
      for (const worker of [slot.current, slot.next]) if (worker) leave(worker, options.drain.stopTimeoutMs)
      slot.current = undefined
      slot.next = undefined
      slot.replaceWanted = false
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
    reload: () => beginReload(hasRoomFor(slots.values()) ? 'at-once' : 'rolling'),
    restart: () => beginReload('stop-first'),
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
          for (const worker of [slot.current, slot.next, slot.spare])
            if (worker) leave(worker, options.drain.stopTimeoutMs, options.drain.delayMs + HAND_OVER_MS)
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
        slot.spare?.kill()
      }
    },
    status() {
      const byIndex = [...slots.values()].sort((a, b) => a.index - b.index)
      const address = byIndex.map(({ current }) => current?.address).find(Boolean)
      return { desired, generation, draining: leaving.size, address, slots: byIndex.map(statusOf) }
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
