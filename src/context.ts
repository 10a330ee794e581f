import {
  announcedChannel,
  type BusOptions,
  createBus,
  type Invalidations,
  type MachineBus,
} from './bus/index.ts'
import { appName } from './core/app-name.ts'
import { type Closing, createClosing, processClosing } from './core/closing.ts'
import { createKeys, isNamespace, type Keys, NAMESPACE_FORM } from './core/keys.ts'
import { OptionReader } from './core/options.ts'
import { createReadAhead, type ReadAhead } from './core/read-ahead.ts'
import { processRole } from './core/role.ts'
import { createRedisConnection, type RedisConnection } from './redis/client.ts'
import { type ProcessDefaults, processDefaults, setProcessDefaults } from './redis/defaults.ts'
import { createRedisSource, type RedisSource } from './redis/source.ts'
import type { RedisOption } from './redis/target.ts'

/** All that a room may ask for. A room is a function `(ctx: SharedContext, options) => object`. */
export interface SharedContext {
  /** The command connection, opened by its first `ready()`. */
  readonly redis: RedisConnection
  /** A further connection for a library that changes the client it is given: one per name, opened by its first `ready()`. */
  connect(name: string): RedisConnection
  readonly bus: MachineBus
  /** Word of what anybody writes to the cache's keys. */
  readonly invalidations: Invalidations
  /** Ask for keys when they are used, not when the room is made: `runCluster` may yet set the namespace. */
  readonly keys: Keys
  readonly closing: Closing
  /** What a request needs later is asked for together with what it waits for now. */
  readonly readAhead: ReadAhead
  /** True in a primary, where receivers and middleware of the loaded app do nothing. */
  inert(): boolean
}

export interface SharedOptions {
  /** URL, `'local'`, ioredis options or an ioredis instance. Default: `REDIS_URL`, else the managed local Redis. */
  readonly redis?: RedisOption
  /** First part of every key and channel. Default: `AS_ONE_NAMESPACE`, else the name in the app's package.json. */
  readonly namespace?: string
  /** Limits and log topics of the bus. */
  readonly bus?: BusOptions
}

/**
 * A context of its own, for explicit instances.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS`, `ERR_AS_ONE_REDIS_CONFIG`
 */
export function createContext(options: SharedOptions = {}): SharedContext {
  const reader = new OptionReader('createShared', options, {
    prefix: 'namespace',
    keyPrefix: 'namespace',
    url: 'redis',
  })
  const redis = reader.raw('redis') as RedisOption | undefined
  const namespace = reader.string('namespace', undefined)
  if (namespace !== undefined && !isNamespace(namespace))
    reader.mistake('namespace', `must be ${NAMESPACE_FORM}`)
  const bus = reader.raw('bus') as BusOptions | undefined
  reader.done()
  const env = process.env
  const name = appName()
  const source = createRedisSource(redis ?? announcedRedis(), {
    name,
    env,
    cwd: process.cwd(),
    id: announcedId(redis),
  })
  return contextOf(createKeys(namespace ?? defaultNamespace(name, env)), source, bus)
}

let shared: SharedContext | undefined

/**
 * The one context behind the short forms. It takes its settings at its first use, not when it is made, so that an app
 * may create its middleware before `runCluster` is called.
 */
export function defaultContext(): SharedContext {
  shared ??= contextOf(
    {
      get namespace() {
        return defaultKeys().namespace
      },
      prefix: (room) => defaultKeys().prefix(room),
      key: (room, id) => defaultKeys().key(room, id),
      tagged: (room, tag, id) => defaultKeys().tagged(room, tag, id),
    },
    {
      get label() {
        return settings().source.label
      },
      get id() {
        return settings().source.id
      },
      get local() {
        return settings().source.local
      },
      target: () => settings().source.target(),
      close: () => ownSource?.close() ?? Promise.resolve(), // runCluster closes its own, after the hub
    },
  )
  return shared
}

function contextOf(keys: Keys, source: RedisSource, busOptions?: BusOptions): SharedContext {
  const closing = createClosing()
  const redis = createRedisConnection(source, 'as-one:state')
  const further = new Map<string, RedisConnection>()
  const bus = createBus({ keys, source, options: busOptions })
  closing.add(() => source.close())
  closing.add(() => redis.close())
  closing.add(() => bus.close())
  const forget = processClosing.add(() => closing.close())
  closing.add(forget)
  const connect = (name: string): RedisConnection => {
    const connection = further.get(name) ?? createRedisConnection(source, `as-one:${name}`)
    if (!further.has(name)) closing.add(() => connection.close())
    further.set(name, connection)
    return connection
  }
  const { invalidations } = bus
  return {
    redis,
    connect,
    bus,
    invalidations,
    keys,
    closing,
    readAhead: createReadAhead(),
    inert: () => processRole() === 'primary',
  }
}

/** Made here, because nobody called `runCluster`. */
let ownSource: RedisSource | undefined
let madeKeys: Keys | undefined

function defaultKeys(): Keys {
  const { namespace } = settings()
  if (madeKeys?.namespace !== namespace) madeKeys = createKeys(namespace)
  return madeKeys as Keys
}

function settings(): ProcessDefaults {
  const known = processDefaults()
  if (known) return known
  const env = process.env
  const name = appName()
  ownSource = createRedisSource(announcedRedis(), {
    name,
    env,
    cwd: process.cwd(),
    id: announcedId(undefined),
  })
  const made = { name, namespace: defaultNamespace(name, env), source: ownSource }
  setProcessDefaults(made)
  return made
}

/** What our primary has told this worker, before any user code ran. */
function announcedRedis(): string | undefined {
  return announcedChannel()?.announcement.redis
}

function announcedId(redis: RedisOption | undefined): string | undefined {
  return redis === undefined && announcedRedis() !== undefined
    ? announcedChannel()?.announcement.redisId
    : undefined
}

function defaultNamespace(name: string, env: NodeJS.ProcessEnv): string {
  return announcedChannel()?.announcement.namespace ?? env.AS_ONE_NAMESPACE ?? name
}
