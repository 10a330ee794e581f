import { appName } from '../core/app-name.ts'
import type { ByteSize, Duration } from '../core/duration.ts'
import { isNamespace, NAMESPACE_FORM } from '../core/keys.ts'
import { OptionReader } from '../core/options.ts'
import type { RedisOption } from '../redis/target.ts'
import type { BackoffOptions } from './backoff.ts'
import { usableCpus } from './cpus.ts'
import type { HealthOptions } from './health.ts'
import type { RecycleLimits } from './recycle.ts'

export interface ClusterOptions {
  /** Default: the name in the app's package.json. */
  name?: string
  /** Default: `PORT`, else 3000. 0 takes a free one, the same for all workers. */
  port?: number
  /** Default: all addresses. */
  host?: string
  /** A unix socket instead of a port. */
  socketPath?: string
  /** How many; `'max'` is every CPU this container may use, `'50%'` half of them, `'inline'` none: the app runs in this process. Default: `WEB_CONCURRENCY`, else `'max'`. */
  workers?: number | 'max' | 'inline' | `${number}%`
  /** URL, `'local'`, ioredis options or an ioredis instance. Default: `REDIS_URL`, else the managed local Redis. */
  redis?: RedisOption
  /** First part of every Redis key. Default: `AS_ONE_NAMESPACE`, else `name`. */
  namespace?: string
  /** `'round-robin'`: the primary hands each connection to the next free worker. `'os'`: workers share the socket. Default `'round-robin'`. */
  balance?: 'round-robin' | 'os'
  /** How long a worker may take until it listens. Default `'30s'`. */
  readyTimeout?: Duration
  /** A worker is ready when it calls `ready()` of its handle or sends PM2's 'ready' message, not when it listens. Default false. */
  waitReady?: boolean
  drain?: {
    /** How long workers go on accepting when the cluster stops and `/readyz` says so already, for load balancers that must first notice. Default 0. */
    delay?: Duration
    /** How long idle kept-alive connections stay open after accepting has stopped. Default `'1s'`. */
    linger?: Duration
    /** All of a drain when the cluster stops. Default `'8s'`, which fits the 10 s of Docker. */
    stopTimeout?: Duration
    /** All of a drain when a worker is replaced. Default `'30s'`. */
    reloadTimeout?: Duration
  }
  backoff?: {
    /** Delay before the first restart of a crashed worker. Default `'100ms'`. */
    min?: Duration
    /** Default `'30s'`. */
    max?: Duration
    /** A worker that lived this long starts over at `min`. Default `'30s'`. */
    stableAfter?: Duration
    /** Exit codes after which a worker is not restarted. Default none. */
    stopExitCodes?: readonly number[]
  }
  /** A worker past one of these limits is replaced: the new one starts first, one at a time, each limit ±10 % per worker. */
  recycle?: {
    /** Resident memory, looked at each second. Default none. */
    maxMemory?: ByteSize
    /** Default none. */
    maxRequests?: number
    /** Default none. */
    maxAge?: Duration
  }
  /** A worker whose event loop does not turn for this long is killed and replaced; `false`: never. Default `'30s'`. */
  hangTimeout?: Duration | false
  /** A port for load balancers and orchestrators: `/livez`, `/readyz`, `/status`, actions by POST. Default `false`. */
  health?:
    | {
        /** 0 takes a free one; `status()` has it. */
        port: number
        /** Default `'127.0.0.1'`. */
        host?: string
        /** At least 16 characters; actions, and the status on hosts other than loopback, need it. Default none. */
        token?: string
      }
    | false
  /** Added to every worker's environment. */
  env?: Readonly<Record<string, string>>
}

export interface ResolvedClusterOptions {
  readonly name: string
  readonly listen: { readonly port: number; readonly host: string | undefined } | { readonly path: string }
  readonly workers: number | 'inline'
  /** How the number was chosen, for people. */
  readonly workersReason: string
  readonly redis: RedisOption | undefined
  readonly namespace: string
  readonly balance: 'round-robin' | 'os'
  readonly readyTimeoutMs: number
  readonly waitReady: boolean
  readonly drain: {
    readonly delayMs: number
    readonly lingerMs: number
    readonly stopTimeoutMs: number
    readonly reloadTimeoutMs: number
  }
  readonly backoff: BackoffOptions
  readonly stopExitCodes: readonly number[]
  readonly recycle: RecycleLimits
  readonly hangTimeoutMs: number | undefined
  readonly health: HealthOptions | undefined
  readonly env: Readonly<Record<string, string>>
}

const NEIGHBOURS = {
  instances: 'workers',
  workerCount: 'workers',
  numWorkers: 'workers',
  hostname: 'host',
  path: 'socketPath',
  wait_ready: 'waitReady',
  listen_timeout: 'readyTimeout',
  listenTimeout: 'readyTimeout',
  max_memory_restart: 'recycle.maxMemory',
  maxMemoryRestart: 'recycle.maxMemory',
  max_requests: 'recycle.maxRequests',
  kill_timeout: 'drain.stopTimeout',
  killTimeout: 'drain.stopTimeout',
  grace: 'drain.stopTimeout',
  exp_backoff_restart_delay: 'backoff.min',
  stop_exit_codes: 'backoff.stopExitCodes',
  prefix: 'namespace',
  keyPrefix: 'namespace',
  redisUrl: 'redis',
} as const

const RECYCLE_NEIGHBOURS = {
  maxMemoryRestart: 'recycle.maxMemory',
  max_memory_restart: 'recycle.maxMemory',
  max_requests: 'recycle.maxRequests',
} as const

/** Workers tell each second that they live. */
const MIN_HANG_MS = 2_000
export const MAX_WORKERS: number = 1_024
/** Past 2^31 ms Node's timers fire at once. */
const MAX_TIMER_MS = 24 * 24 * 60 * 60 * 1_000
/** The kernel cuts longer ones at 108 bytes (macOS: 104), without a word. */
const MAX_SOCKET_PATH_BYTES = 100

/**
 * Reads `runCluster`'s options and the environment they fall back to.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 */
export function resolveClusterOptions(given: unknown, env: NodeJS.ProcessEnv): ResolvedClusterOptions {
  const reader = new OptionReader('runCluster', given, NEIGHBOURS)
  const name =
    reader.string(
      'name',
      undefined,
      /^[A-Za-z0-9._-]{1,48}$/,
      " of 1 to 48 letters, digits, '.', '_' or '-'",
    ) ?? appName()
  const namespace = reader.string('namespace', undefined) ?? env.AS_ONE_NAMESPACE ?? name
  if (!isNamespace(namespace)) reader.mistake('namespace', `must be ${NAMESPACE_FORM}, got '${namespace}'`)
  const timer = (from: OptionReader, option: string, fallback: number, min?: number): number => {
    const ms = from.duration(option, fallback, min)
    if (ms > MAX_TIMER_MS) from.mistake(option, "must be at most '24d', the longest wait of a timer")
    return ms
  }
  const drain = reader.nested('drain')
  const backoff = reader.nested('backoff')
  const recycle = reader.nested('recycle', RECYCLE_NEIGHBOURS)
  const resolved = {
    name,
    namespace,
    listen: listenOn(reader, env),
    ...workersOf(reader, env),
    redis: reader.raw('redis') as RedisOption | undefined,
    balance: reader.oneOf('balance', 'round-robin', ['round-robin', 'os']),
    waitReady: reader.boolean('waitReady', false),
    readyTimeoutMs: timer(reader, 'readyTimeout', 30_000, 1),
    drain: {
      delayMs: timer(drain, 'delay', 0),
      lingerMs: timer(drain, 'linger', 1_000),
      stopTimeoutMs: timer(drain, 'stopTimeout', 8_000),
      reloadTimeoutMs: timer(drain, 'reloadTimeout', 30_000),
    },
    backoff: {
      minMs: timer(backoff, 'min', 100, 1),
      maxMs: timer(backoff, 'max', 30_000, 1),
      stableAfterMs: backoff.duration('stableAfter', 30_000),
    },
    stopExitCodes: exitCodes(backoff),
    recycle: {
      maxMemoryBytes: recycle.size('maxMemory', undefined),
      maxRequests: recycle.integer('maxRequests', undefined, 1, Number.MAX_SAFE_INTEGER),
      maxAgeMs: recycle.duration('maxAge', undefined, 1_000),
    },
    hangTimeoutMs:
      reader.raw('hangTimeout') === false ? undefined : timer(reader, 'hangTimeout', 30_000, MIN_HANG_MS),
    health: healthOf(reader),
    env: environment(reader),
  } as const
  if (resolved.backoff.minMs > resolved.backoff.maxMs)
    backoff.mistake('min', 'must not be longer than backoff.max')
  const { delayMs, lingerMs, stopTimeoutMs, reloadTimeoutMs } = resolved.drain
  for (const [option, ms, waits, what] of [
    ['stopTimeout', stopTimeoutMs, delayMs + lingerMs, 'drain.delay and drain.linger together'],
    ['reloadTimeout', reloadTimeoutMs, lingerMs, 'drain.linger'],
  ] as const) {
    if (waits >= ms) drain.mistake(option, `(${ms} ms) must be longer than ${what} (${waits} ms)`)
  }
  drain.close()
  recycle.close()
  backoff.close()
  reader.done()
  return Object.freeze(resolved)
}

function listenOn(reader: OptionReader, env: NodeJS.ProcessEnv): ResolvedClusterOptions['listen'] {
  const socketPath = reader.string('socketPath', undefined)
  const port = reader.integer('port', undefined, 0, 65_535)
  const host = reader.string('host', undefined)
  if (socketPath !== undefined) {
    if (port !== undefined || host !== undefined)
      reader.mistake('socketPath', 'cannot be combined with port or host')
    if (Buffer.byteLength(socketPath) > MAX_SOCKET_PATH_BYTES)
      reader.mistake('socketPath', `must be at most ${MAX_SOCKET_PATH_BYTES} bytes long`)
    return { path: socketPath }
  }
  return { port: port ?? portFrom(reader, env.PORT), host }
}

function portFrom(reader: OptionReader, text: string | undefined): number {
  if (text === undefined || text === '') return 3_000
  const port = Number(text)
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  reader.mistake(
    'port',
    `comes from the environment variable PORT, which must be a whole number from 0 to 65535, got '${text}'`,
  )
  return 3_000
}

function workersOf(
  reader: OptionReader,
  env: NodeJS.ProcessEnv,
): Pick<ResolvedClusterOptions, 'workers' | 'workersReason'> {
  const option = reader.raw('workers')
  const source = option === undefined && env.WEB_CONCURRENCY ? 'WEB_CONCURRENCY' : 'workers'
  const value = option ?? (env.WEB_CONCURRENCY || 'max')
  if (value === 'inline') return { workers: 'inline', workersReason: 'workers: inline' }
  const fixed = typeof value === 'string' && /^\d{1,4}$/.test(value) ? Number(value) : value
  if (typeof fixed === 'number' && Number.isInteger(fixed) && fixed >= 1 && fixed <= MAX_WORKERS) {
    return { workers: fixed, workersReason: `${source}: ${fixed}` }
  }
  const percent = typeof value === 'string' ? /^(\d{1,3})%$/.exec(value)?.[1] : undefined
  if (value === 'max' || (percent !== undefined && Number(percent) >= 1)) {
    const { count, reason } = usableCpus()
    const workers = Math.max(1, Math.floor((count * Number(percent ?? 100)) / 100))
    return { workers, workersReason: `${source}: ${value} of ${count} CPUs (${reason})` }
  }
  reader.mistake(
    'workers',
    `must be 1 to ${MAX_WORKERS}, 'max', '50%' or 'inline', got '${String(value)}'${source === 'workers' ? '' : ` from ${source}`}`,
  )
  return { workers: 1, workersReason: 'invalid' }
}

const MIN_TOKEN_LENGTH = 16

function healthOf(reader: OptionReader): HealthOptions | undefined {
  const given = reader.raw('health')
  if (given === undefined || given === false) return undefined
  const health = reader.nested('health')
  const port = health.integer('port', undefined, 0, 65_535)
  if (typeof given === 'object' && health.raw('port') === undefined) health.mistake('port', 'is missing')
  const token = health.string('token', undefined)
  if (token !== undefined && token.length < MIN_TOKEN_LENGTH)
    health.mistake(
      'token',
      `must have at least ${MIN_TOKEN_LENGTH} characters, as openssl rand -hex 16 gives them`,
    )
  const resolved = { port: port ?? 0, host: health.string('host', '127.0.0.1'), token }
  health.close()
  return resolved
}

function exitCodes(reader: OptionReader): readonly number[] {
  const value = reader.raw('stopExitCodes')
  if (value === undefined) return []
  if (Array.isArray(value) && value.every((code) => Number.isInteger(code) && code >= 0 && code <= 255))
    return [...value]
  reader.mistake('stopExitCodes', 'must be a list of exit codes from 0 to 255')
  return []
}

function environment(reader: OptionReader): Readonly<Record<string, string>> {
  const value = reader.raw('env')
  if (value === undefined) return {}
  if (
    typeof value === 'object' &&
    value !== null &&
    Object.values(value).every((item) => typeof item === 'string')
  ) {
    return { ...(value as Record<string, string>) }
  }
  reader.mistake('env', 'must be an object whose values are strings')
  return {}
}
