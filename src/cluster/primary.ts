import cluster from 'node:cluster'
import { randomBytes } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import { pathToFileURL } from 'node:url'
import {
  type Announcement,
  announcementEnv,
  createBus,
  type Hub,
  holdHub,
  type MessageHandler,
  serveChannel,
} from '../bus/index.ts'
import { builtFile } from '../core/built-file.ts'
import { type Closing, createClosing, processClosing } from '../core/closing.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { createKeys } from '../core/keys.ts'
import { setProcessRole } from '../core/role.ts'
import { setProcessDefaults } from '../redis/defaults.ts'
import { createRedisSource, type RedisSource } from '../redis/source.ts'
import { checkRedis } from './check-redis.ts'
import { type HealthPort, openHealthPort } from './health.ts'
import { trackListeners } from './listeners.ts'
import { returnLoadGarbage } from './load-garbage.ts'
import { redisIfThere } from './optional-redis.ts'
import { MAX_WORKERS, type ResolvedClusterOptions } from './options.ts'
import { guardOrphans } from './orphan-guardian.ts'
import { listenToSignals, type Signals } from './signals.ts'
import type { WorkerStatus } from './slot.ts'
import { removeStaleSocket } from './stale-socket.ts'
import type { Launch } from './start-primary-of.ts'
import { createSupervisor, type Supervisor, type SupervisorEvents } from './supervisor.ts'
import { putIntoWords, sayWithoutRedis } from './words.ts'
import type { OnOutput, WorkerAddress } from './worker-handle.ts'

export interface ClusterStatus {
  readonly name: string
  readonly pid: number
  readonly redis: string
  readonly desired: number
  /** Counts reloads from 1 on. */
  readonly generation: number
  readonly workers: readonly WorkerStatus[]
  /** Workers that finish their last requests. */
  readonly draining: number
  /** Where the app listens; with port 0 the one that was taken. Undefined before a worker listens. */
  readonly address?: WorkerAddress | undefined
  /** Undefined without the option `health`. */
  readonly healthPort?: number | undefined
}

export interface PrimaryHandle {
  readonly role: 'primary'
  status(): ClusterStatus
  /** To `n` workers, or by `'+1'` / `'-1'`; the highest indexes go first. @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
  scale(to: number | `+${number}` | `-${number}`): void
  /**
   * Replaces every worker without a failed request: start the new one, wait until it is ready, drain the old one.
   *
   * @throws SharedStateError `ERR_AS_ONE_RELOAD` when the new version does not become ready; the old workers stay
   */
  reload(): Promise<void>
  /**
   * Drains all workers, then starts all anew: for versions that must not run side by side. In between nobody serves.
   *
   * @throws SharedStateError `ERR_AS_ONE_RELOAD` when one does not become ready; it is tried again with backoff
   */
  restart(): Promise<void>
  /** Drains all workers, stops the managed local Redis, takes the signal handlers back. Idempotent. */
  stop(): Promise<void>
  /**
   * Receives what workers of this machine `publish` with `to: 'primary'`. Returns the function that ends it.
   *
   * @throws SharedStateError `ERR_AS_ONE_OPTIONS` for a malformed topic
   */
  subscribe<Payload = unknown>(topicOrPattern: string, handler: MessageHandler<Payload>): () => void
  /** Returns the function that ends it. */
  on<Event extends keyof SupervisorEvents>(
    event: Event,
    listener: (...args: SupervisorEvents[Event]) => void,
  ): () => void
}

/** What a primary of somebody else's script does differently. */
export interface PrimaryHooks {
  relaunch?(): Promise<{ options: ResolvedClusterOptions; launch: Launch }>
  readonly onOutput?: OnOutput
  onStarting?(handle: PrimaryHandle): void
}

type PrimaryOptions = ResolvedClusterOptions & { workers: number }

const AGENT_URL: string = builtFile('cluster/agent.js').href

/**
 * Makes this process the primary: Redis first, then the hub, then the workers.
 *
 * @throws SharedStateError when Redis cannot be used or no worker starts; nothing is left running then
 */
export async function startPrimary(
  options: PrimaryOptions,
  launch?: Launch,
  hooks: PrimaryHooks = {},
): Promise<PrimaryHandle> {
  setProcessRole('primary')
  const closing = createClosing()
  const place = { name: options.name, cwd: launch?.cwd ?? process.cwd() }
  const isNamed = options.redis !== undefined || Boolean(process.env.REDIS_URL)
  const optional = launch && !isNamed ? redisIfThere(process.env, place) : undefined
  const source = optional?.source ?? createRedisSource(options.redis, { ...place, env: process.env })
  setProcessDefaults({ name: options.name, namespace: options.namespace, source })
  closing.add(() => source.close())

  const listeners = trackListeners()
  closing.add(() => listeners.stop())

  let supervisor: Supervisor | undefined
  let signals: Signals | undefined
  let stopping: Promise<void> | undefined
  /** What the next worker is started with. */
  let current = { options: options as ResolvedClusterOptions, launch }
  let someHaveListened = false
  let health: HealthPort | undefined

  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      setTimeout(() => listeners.close(), options.drain.delayMs).unref()
      await supervisor?.stop()
      await health?.close()
      await processClosing.close() // the default instance of this process, if the app used it here
      await closing.close()
      signals?.stop()
    })()
    return stopping
  }
  /** After each wait of the start: what is opened once stop() has closed everything, a Redis above all, nobody would close. */
  const checkStillWanted = (): void => {
    if (stopping)
      throw new SharedStateError('ERR_AS_ONE_CLOSED', 'the cluster was stopped before it had started')
  }
  const renew = oneAfterTheOther(async (how: 'reload' | 'restart') => {
    if (!supervisor) throw new SharedStateError('ERR_AS_ONE_CLOSED', 'the cluster has not started yet')
    const before = current
    if (hooks.relaunch) {
      try {
        current = await hooks.relaunch()
      } catch (error) {
        throw tellReloadFailed(supervisor, how, error)
      }
      setUpFork(current.options, current.launch, hooks)
    }
    try {
      await supervisor[how]()
    } catch (error) {
      if (how === 'reload') {
        current = before
        setUpFork(current.options, current.launch, hooks)
      }
      throw error
    }
  })
  const reload = (): Promise<void> => renew('reload')
  const restart = (): Promise<void> => renew('restart')

  // From the first moment on: a Ctrl-C while Redis starts must not leave it behind.
  signals = listenToSignals({
    stop,
    kill: () => supervisor?.kill(),
    reload: () => void reload().catch(() => {}), // told as 'reload-failed'
    scale: (by) => supervisor?.scale(Math.min(MAX_WORKERS, Math.max(1, supervisor.status().desired + by))),
  })

  const isReady = (): boolean =>
    !stopping && (supervisor?.status().slots ?? []).some(({ state }) => state === 'ready')
  let handle: PrimaryHandle | undefined

  try {
    if (options.health)
      health = await openHealthPort(options.health, {
        isReady,
        status: () => handle?.status() ?? { name: options.name, pid: process.pid, starting: true },
        actions: {
          reload,
          restart,
          stop: () => void stop(),
          scale: (query) => {
            const to = (query.get('to') ?? '').replace(/^ /, '+') // which is how a query says '+'
            handle?.scale(/^\d+$/.test(to) ? Number(to) : (to as '+1'))
          },
        },
      })
    if (optional) {
      const missing = await optional.settle()
      if (missing !== undefined) sayWithoutRedis(missing)
    } else await checkRedis(source)
    if ('path' in options.listen) await removeStaleSocket(options.listen.path)
    checkStillWanted()
    const redisUrl = await urlForWorkers(options, source)
    checkStillWanted()
    const hub = openHub(options, redisUrl, source, closing)
    const guardian = await guardOrphans(process.env)
    closing.add(() => guardian.close())
    checkStillWanted()
    setUpFork(options, launch, hooks)
    supervisor = createSupervisor({
      desired: options.workers,
      get backoff() {
        return current.options.backoff
      },
      get stopExitCodes() {
        return current.options.stopExitCodes
      },
      get drain() {
        return current.options.drain
      },
      get appEnd() {
        return current.launch?.shutdownWithMessage ? ('message' as const) : ('signal' as const)
      },
      get recycle() {
        return current.options.recycle
      },
      canPassOn: options.balance === 'round-robin',
      forkOptions: (index) => {
        const announcement = hub.announce(index)
        const now = current
        return {
          env: {
            ...now.options.env,
            ...(now.launch?.envOf?.(index) ?? { NODE_APP_INSTANCE: `${index}` }),
            ...announcementEnv(announcement),
            AS_ONE_WORKER: `${index}`,
          },
          readyTimeoutMs: now.options.readyTimeoutMs,
          hangTimeoutMs: now.options.hangTimeoutMs,
          readyWhen:
            (now.launch?.waitReady ?? now.options.waitReady) ? 'message' : now.launch ? 'listening' : 'told',
          settleMs: someHaveListened || now.launch?.waitReady ? undefined : now.launch?.settleMs,
          onOutput: hooks.onOutput,
          onListening: () => {
            someHaveListened = true
          },
          onChannel: (socket) => serveChannel(socket, hub.hub, announcement),
          onStarted: (pid) => guardian.watch(pid),
          onConnection: (connection) => listeners.distribute(connection),
        }
      },
    })
    closing.add(putIntoWords(supervisor.events))
    const bus = createBus({ keys: createKeys(options.namespace), source }) // joins at the first subscribe()
    closing.add(() => bus.close())
    const subscribe: PrimaryHandle['subscribe'] = (topic, handler) =>
      bus.onPrimary(topic, handler as MessageHandler)
    const verbs = { reload, restart, stop, subscribe }
    handle = handleOf(options, source, supervisor, { ...verbs, healthPort: health?.port })
    hooks.onStarting?.(handle)
    const started = supervisor.start()
    await Promise.all([started, returnLoadGarbage()]) // while the workers load their apps, nobody waits for the primary
    return handle
  } catch (error) {
    if (!stopping) supervisor?.kill() // else those that serve already are draining
    await stop().catch((failure: unknown) => {
      const code = error instanceof SharedStateError ? error.code : 'ERR_AS_ONE_BOOT'
      const message = `${messageOf(error)}; cleaning up failed too: ${messageOf(failure)}`
      throw new SharedStateError(code, message, { cause: error })
    })
    throw error
  }
}

/** A call while one runs may be for something newer than what that one has read: one more run serves all such calls. */
function oneAfterTheOther<Kind>(run: (kind: Kind) => Promise<void>): (kind: Kind) => Promise<void> {
  const waiting = new Map<Kind, Promise<void>>()
  let last: Promise<void> | undefined
  return (kind) => {
    const same = waiting.get(kind)
    if (same) return same
    const begin = (): Promise<void> => {
      waiting.delete(kind)
      return run(kind)
    }
    const result = last ? last.then(begin) : begin()
    if (last) waiting.set(kind, result)
    const settled = result
      .catch(() => {})
      .then(() => {
        if (last === settled) last = undefined
      })
    last = settled
    return result
  }
}

function tellReloadFailed(
  { events }: Supervisor,
  how: 'reload' | 'restart',
  cause: unknown,
): SharedStateError {
  const message = `${how} failed, the old workers stay: ${messageOf(cause)}`
  const error = new SharedStateError('ERR_AS_ONE_RELOAD', message, { cause })
  events.emit('reload-failed', error)
  return error
}

interface AnnouncedHub {
  readonly hub: Hub
  announce(index: number): Announcement
}

function openHub(
  options: ResolvedClusterOptions,
  redis: string | undefined,
  source: RedisSource,
  closing: Closing,
): AnnouncedHub {
  const { hub, release } = holdHub(createKeys(options.namespace), source)
  closing.add(release)
  const { name, namespace } = options
  const common = { name, namespace, redis, redisId: source.id }
  return { hub, announce: (index) => ({ ...common, index, nonce: randomBytes(16).toString('hex') }) }
}

/** Options and instances cannot be sent; the worker's own `runCluster` call gets them again. */
async function urlForWorkers(
  options: ResolvedClusterOptions,
  source: RedisSource,
): Promise<string | undefined> {
  if (source.local) return `unix://${pathToFileURL((await source.target()).label).pathname}`
  const url = options.redis ?? process.env.REDIS_URL
  return typeof url === 'string' ? url : undefined
}

function setUpFork(
  options: ResolvedClusterOptions,
  launch: Launch | undefined,
  { onOutput }: PrimaryHooks,
): void {
  cluster.schedulingPolicy = options.balance === 'os' ? cluster.SCHED_NONE : cluster.SCHED_RR
  cluster.setupPrimary({
    exec: launch?.exec ?? process.argv[1] ?? '',
    args: [...(launch?.args ?? process.argv.slice(2))],
    ...(launch?.cwd !== undefined && { cwd: launch.cwd }),
    // A preload, never a wrapper: require.main, argv and import.meta stay the app's own.
    execArgv: [...(launch?.nodeArgs ?? process.execArgv), '--import', AGENT_URL],
    // stdout is inherited; stderr is read, because a reload that fails tells the last lines of it; 4 is the bus channel.
    stdio: ['inherit', onOutput ? 'pipe' : 'inherit', 'pipe', 'ipc', 'pipe'],
  })
  // Whoever reads our output may go before us.
  process.stdout.on('error', () => {})
  process.stderr.on('error', () => {})
}

function handleOf(
  options: ResolvedClusterOptions,
  source: RedisSource,
  supervisor: Supervisor,
  {
    healthPort,
    ...verbs
  }: Pick<PrimaryHandle, 'reload' | 'restart' | 'stop' | 'subscribe'> & { healthPort: number | undefined },
): PrimaryHandle {
  const events = supervisor.events as EventEmitter
  return {
    role: 'primary',
    status() {
      const { slots, ...rest } = supervisor.status()
      return {
        name: options.name,
        pid: process.pid,
        redis: source.label,
        ...rest,
        healthPort,
        workers: slots,
      }
    },
    scale: (to) => supervisor.scale(desiredOf(to, supervisor.status().desired)),
    ...verbs,
    on(event, listener) {
      events.on(event, listener)
      return () => events.off(event, listener)
    },
  }
}

function desiredOf(to: number | string, current: number): number {
  const relative = typeof to === 'string' && /^[+-]\d{1,4}$/.test(to)
  const desired = relative ? current + Number(to) : to
  if (typeof desired === 'number' && Number.isInteger(desired) && desired >= 1 && desired <= MAX_WORKERS)
    return desired
  throw new SharedStateError(
    'ERR_AS_ONE_OPTIONS',
    `scale must lead to 1 to ${MAX_WORKERS} workers, got '${to}' with ${current} running`,
  )
}
