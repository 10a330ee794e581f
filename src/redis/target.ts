import { createHash } from 'node:crypto'
import type { Cluster, ClusterNode, ClusterOptions, Redis, RedisOptions } from 'ioredis'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'

/**
 * Where the Redis is: a URL (`redis://`, `rediss://`, `unix:///path`, `redis+sentinel://h:p,h:p/name`,
 * `redis+cluster://h:p,h:p`), `'local'`, ioredis options, or an ioredis instance, of which we open
 * duplicates with our own connection profile and which we never close.
 */
export type RedisOption = string | RedisOptions | Redis | Cluster

/** A resolved `RedisOption`. `label` is for people and never holds a password. */
export type RedisTarget =
  | {
      readonly kind: 'server'
      readonly label: string
      readonly id: string | undefined
      readonly options: RedisOptions
    }
  | {
      readonly kind: 'cluster'
      readonly label: string
      readonly id: string | undefined
      readonly nodes: readonly ClusterNode[]
      readonly options: ClusterOptions
    }
  | { readonly kind: 'local'; readonly label: string; readonly id: string }

/**
 * Reads a `RedisOption`, or the environment when there is none: `REDIS_URL`, else the managed local Redis,
 * which `NODE_ENV=production` does not start unasked.
 *
 * @throws SharedStateError `ERR_AS_ONE_REDIS_CONFIG` that names the option, the value without its password, and the way out
 */
export function resolveRedis(option: RedisOption | undefined, env: NodeJS.ProcessEnv): RedisTarget {
  if (option !== undefined) return targetOf(option, 'redis')
  if (env.REDIS_URL) return targetOf(env.REDIS_URL, 'REDIS_URL')
  if (env.NODE_ENV === 'production') {
    throw configError(
      "no Redis is configured: set REDIS_URL, or pass redis: 'local' to run a private redis-server on this machine",
    )
  }
  return LOCAL
}

const LOCAL: RedisTarget = { kind: 'local', label: 'the managed local Redis', id: 'local' }

function targetOf(option: RedisOption, source: string): RedisTarget {
  if (typeof option === 'string') return option === 'local' ? LOCAL : targetOfUrl(option, source)
  if (typeof option !== 'object' || option === null) {
    throw configError(
      `${source} must be a URL, 'local', ioredis options or an ioredis instance, got ${show(option)}`,
    )
  }
  const target = isCluster(option)
    ? targetOfCluster(option)
    : targetOfOptions(isClient(option) ? option.options : option)
  return target
}

function targetOfCluster(cluster: Cluster): RedisTarget {
  const { options } = cluster
  refuseKeyPrefix({ ...options, ...options.redisOptions })
  // startupNodes is private to ioredis; duplicate() is the public way to it and opens nothing while lazy.
  const twin = cluster.duplicate([], { lazyConnect: true })
  const nodes = (twin as unknown as { startupNodes: ClusterNode[] }).startupNodes
  twin.disconnect()
  return {
    kind: 'cluster',
    label: `Redis Cluster ${nodes.map(labelOfNode).join(',')}`,
    id: undefined,
    nodes,
    options,
  }
}

function targetOfOptions(options: RedisOptions): RedisTarget {
  refuseKeyPrefix(options)
  const label = options.sentinels
    ? `Redis Sentinel ${options.name} at ${options.sentinels.map((node) => `${node.host}:${node.port}`).join(',')}`
    : (options.path ?? `${options.host ?? 'localhost'}:${options.port ?? 6379}`)
  return { kind: 'server', label, id: undefined, options }
}

const SCHEMES =
  'redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://'

function targetOfUrl(url: string, source: string): RedisTarget {
  const match =
    /^(rediss?|unix|rediss?\+sentinel|rediss?\+cluster):\/\/(?:([^@/]*)@)?([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/.exec(
      url,
    )
  if (!match) throw configError(`${source} must start with ${SCHEMES}, got ${show(withoutPassword(url))}`)
  const [, scheme = '', userInfo, authority = '', path = '', query] = match
  const id = createHash('sha256').update(url).digest('hex')
  const params = new URLSearchParams(query)
  const refuse = (what: string): SharedStateError =>
    configError(`${source} ${what}: ${show(withoutPassword(url))}`)
  const credentials = credentialsOf(userInfo)
  const tls = scheme.startsWith('rediss') ? { tls: {} } : {}

  if (scheme === 'unix') {
    const socketPath = decodeURIComponent(authority + path)
    if (!socketPath.startsWith('/')) throw refuse('needs an absolute path, unix:///path/to/redis.sock')
    return {
      kind: 'server',
      label: socketPath,
      id,
      options: { path: socketPath, ...credentials, ...dbOf(params.get('db'), refuse) },
    }
  }

  const nodes = authority
    .split(',')
    .map((hostPort) => nodeOf(hostPort, scheme.endsWith('sentinel') ? 26379 : 6379, refuse))
  const segments = path.split('/').slice(1).map(decodeURIComponent)
  if (scheme.endsWith('+cluster')) {
    if ((segments[0] ?? '') !== '') throw refuse('must not name a database, Redis Cluster has only one')
    return {
      kind: 'cluster',
      label: `Redis Cluster ${authority}`,
      id,
      nodes,
      options: { redisOptions: { ...credentials, ...tls } },
    }
  }
  if (scheme.endsWith('+sentinel')) {
    const [name, db] = segments
    if (!name) throw refuse('must name the master, redis+sentinel://host:port,host:port/name')
    const sentinelPassword = params.get('sentinelPassword')
    return {
      kind: 'server',
      label: `Redis Sentinel ${name} at ${authority}`,
      id,
      options: {
        sentinels: nodes,
        name,
        ...(sentinelPassword === null ? {} : { sentinelPassword }),
        ...credentials,
        ...tls,
        ...(tls.tls ? { enableTLSForSentinelMode: true } : {}),
        ...dbOf(db, refuse),
      },
    }
  }
  const [node, more] = nodes
  if (!node || more) throw refuse('must name one host; several need redis+sentinel:// or redis+cluster://')
  return {
    kind: 'server',
    label: `${node.host}:${node.port}`,
    id,
    options: { ...node, ...credentials, ...tls, ...dbOf(segments[0], refuse) },
  }
}

function credentialsOf(userInfo: string | undefined): RedisOptions {
  if (!userInfo) return {}
  const colon = userInfo.indexOf(':')
  const username = decodeURIComponent(colon < 0 ? userInfo : userInfo.slice(0, colon))
  const password = colon < 0 ? '' : decodeURIComponent(userInfo.slice(colon + 1))
  return { ...(username ? { username } : {}), ...(password ? { password } : {}) }
}

function nodeOf(
  hostPort: string,
  defaultPort: number,
  refuse: (what: string) => SharedStateError,
): { host: string; port: number } {
  const match = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]+)?(?::(\d{1,5}))?$/.exec(hostPort)
  const port = match?.[2] === undefined ? defaultPort : Number(match[2])
  if (!match || port < 1 || port > 65535) throw refuse(`has no usable host and port in ${show(hostPort)}`)
  return { host: match[1]?.replace(/^\[|\]$/g, '') ?? 'localhost', port }
}

function dbOf(text: string | null | undefined, refuse: (what: string) => SharedStateError): { db?: number } {
  if (text === null || text === undefined || text === '') return {}
  if (!/^\d{1,5}$/.test(text)) throw refuse(`names a database that is no number, ${show(text)}`)
  return { db: Number(text) }
}

function refuseKeyPrefix(options: { keyPrefix?: string | undefined }): void {
  if (!options.keyPrefix) return
  throw configError(
    `redis: ioredis keyPrefix ${show(options.keyPrefix)} does not apply to SCAN, channels and tracking; remove it and use the namespace option`,
  )
}

/** By methods, not instanceof: two copies of ioredis in one tree are common. */
function isClient(value: object): value is Redis | Cluster {
  const client = value as { duplicate?: unknown; sendCommand?: unknown; options?: unknown }
  return (
    typeof client.duplicate === 'function' &&
    typeof client.sendCommand === 'function' &&
    typeof client.options === 'object'
  )
}

function isCluster(value: object): value is Cluster {
  return isClient(value) && typeof (value as Partial<Cluster>).nodes === 'function'
}

function labelOfNode(node: ClusterNode): string {
  return typeof node === 'object' ? `${node.host ?? 'localhost'}:${node.port ?? 6379}` : String(node)
}

function withoutPassword(url: string): string {
  return url.replace(/\/\/[^@]*@/, '//…@')
}

function configError(message: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_REDIS_CONFIG', message)
}
