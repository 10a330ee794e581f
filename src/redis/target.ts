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

const LOCAL: RedisTarget = {
  kind: 'local',
  label: 'the managed local Redis',
  id: 'local',
}

function targetOf(option: RedisOption, source: string): RedisTarget {
  if (typeof option === 'string') return option === 'local' ? LOCAL : targetOfUrl(option, source)
  if (typeof option !== 'object' || option === null || Array.isArray(option)) {
    throw configError(
      `${source} must be a URL, 'local', ioredis options or an ioredis instance, got ${show(option)}`,
    )
  }
  const target = isCluster(option)
    ? targetOfCluster(option)
    : targetOfOptions(isClient(option) ? option.options : option, source)
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

/** What other clients call these; ioredis would ignore them and go to localhost. */
const FOREIGN_OPTIONS: Readonly<Record<string, string>> = {
  url: 'pass the URL itself',
  socket: 'that is node-redis; pass host and port, path or tls',
  nodes: 'pass a redis+cluster:// URL or an ioredis Cluster',
  rootNodes: 'that is node-redis; pass a redis+cluster:// URL or an ioredis Cluster',
}

function targetOfOptions(options: RedisOptions, source: string): RedisTarget {
  for (const [name, advice] of Object.entries(FOREIGN_OPTIONS)) {
    if (Object.hasOwn(options, name))
      throw configError(`${source}: ${name} is not an option of ioredis; ${advice}`)
  }
  refuseKeyPrefix(options)
  const label = options.sentinels
    ? sentinelLabel(options.name, options.sentinels)
    : (options.path ?? hostPort(options))
  return { kind: 'server', label, id: undefined, options }
}

const SCHEMES =
  'redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://'
const URL_FORM =
  /^(rediss?|unix|rediss?\+sentinel|rediss?\+cluster):\/\/(?:([^@/?#]*)@)?([^@/?#]*)(\/[^?#]*)?(?:\?([^#@]*))?$/

function targetOfUrl(url: string, source: string): RedisTarget {
  const refuse = (what: string): SharedStateError => configError(`${source} ${what}: ${redacted(url)}`)
  const known = /^(rediss?|unix|rediss?\+sentinel|rediss?\+cluster):\/\//.exec(url)?.[1]
  if (!known) throw configError(`${source} must start with ${SCHEMES}, got ${redacted(url)}`)
  const match = URL_FORM.exec(url)
  // An @ further on belongs to a password that has a / in it; read as it stands, half of it would be a host
  // or a path. Only a socket's path without credentials before it may have one.
  const pathMayHaveAt = known === 'unix' && match?.[2] === undefined
  if (!match || (!pathMayHaveAt && match[4]?.includes('@')))
    throw refuse('is malformed; encode @ / ? # in user name and passwords with encodeURIComponent')
  const [, scheme = '', userInfo, authority = '', path = '', query] = match
  const id = createHash('sha256').update(url).digest('hex')
  const params = parametersOf(query, PARAMETERS[scheme.replace(/^rediss/, 'redis')] ?? [], refuse)
  const connection = {
    ...credentialsOf(userInfo, refuse),
    ...familyOf(params.get('family'), refuse),
  }
  const tls = scheme.startsWith('rediss') ? { tls: {} } : {}

  if (scheme === 'unix') {
    const socketPath = decoded(authority + path, refuse)
    if (!socketPath.startsWith('/')) throw refuse('needs an absolute path, unix:///path/to/redis.sock')
    return {
      kind: 'server',
      label: socketPath,
      id,
      options: {
        path: socketPath,
        ...connection,
        ...dbOf(params.get('db'), refuse),
      },
    }
  }

  const nodes = nodesOf(authority, scheme.endsWith('sentinel') ? 26379 : 6379, refuse)
  const [first = '', second = '', ...rest] = path.split('/').slice(1)
  if (scheme.endsWith('+cluster')) {
    if (path.length > 1) throw refuse('must not name a database, Redis Cluster has only one')
    return {
      kind: 'cluster',
      label: `Redis Cluster ${nodes.map(hostPort).join(',')}`,
      id,
      nodes,
      options: { redisOptions: { ...connection, ...tls } },
    }
  }
  if (scheme.endsWith('+sentinel')) {
    const name = decoded(first, refuse)
    if (!name || rest.length > 0)
      throw refuse('must name the master, redis+sentinel://host:port,host:port/name')
    const sentinelPassword = params.get('sentinelPassword')
    return {
      kind: 'server',
      label: sentinelLabel(name, nodes),
      id,
      options: {
        sentinels: nodes,
        name,
        ...(sentinelPassword === null ? {} : { sentinelPassword }),
        ...connection,
        ...tls,
        ...(tls.tls ? { enableTLSForSentinelMode: true } : {}),
        ...dbOf(second || params.get('db'), refuse),
      },
    }
  }
  const [node, more] = nodes
  if (!node || more) throw refuse('must name one host; several need redis+sentinel:// or redis+cluster://')
  if (second || rest.length > 0) throw refuse('must have nothing but a database number after the host')
  return {
    kind: 'server',
    label: hostPort(node),
    id,
    options: {
      ...node,
      ...connection,
      ...tls,
      ...dbOf(first || params.get('db'), refuse),
    },
  }
}

type Refuse = (what: string) => SharedStateError

const PARAMETERS: Readonly<Record<string, readonly string[]>> = {
  redis: ['db', 'family'],
  unix: ['db'],
  'redis+sentinel': ['db', 'family', 'sentinelPassword'],
  'redis+cluster': ['family'],
}

/** An unknown one is refused: a misspelled database would silently be another one. */
function parametersOf(query: string | undefined, known: readonly string[], refuse: Refuse): URLSearchParams {
  const params = new URLSearchParams(query)
  for (const name of params.keys()) {
    if (!known.includes(name)) throw refuse(`has an unknown parameter, known are ${known.join(', ')}`)
  }
  return params
}

function credentialsOf(userInfo: string | undefined, refuse: Refuse): RedisOptions {
  if (!userInfo) return {}
  const colon = userInfo.indexOf(':')
  const username = decoded(colon < 0 ? userInfo : userInfo.slice(0, colon), refuse)
  if (colon < 0)
    throw refuse('names a user without a password; a password alone is written redis://:password@host')
  const password = decoded(userInfo.slice(colon + 1), refuse)
  return {
    ...(username ? { username } : {}),
    ...(password ? { password } : {}),
  }
}

function decoded(text: string, refuse: Refuse): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw refuse('has a % that starts no percent-encoding; % itself is %25')
  }
}

function nodesOf(authority: string, defaultPort: number, refuse: Refuse): { host: string; port: number }[] {
  if (authority === '') return [{ host: 'localhost', port: defaultPort }]
  return authority.split(',').map((text) => {
    const match = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]+)?(?::(\d{1,5}))?$/.exec(text)
    const port = match?.[2] === undefined ? defaultPort : Number(match[2])
    // The text is not repeated: whoever forgot to encode a password has a part of it here.
    if (text === '' || !match || port < 1 || port > 65535) throw refuse('has no usable host and port')
    return { host: match[1]?.replace(/^\[|\]$/g, '') ?? 'localhost', port }
  })
}

function dbOf(text: string | null, refuse: Refuse): { db?: number } {
  if (text === null || text === '') return {}
  if (!/^\d{1,5}$/.test(text)) throw refuse('names a database that is no number')
  return { db: Number(text) }
}

function familyOf(text: string | null, refuse: Refuse): { family?: 0 | 4 | 6 } {
  if (text === null) return {}
  if (!/^[046]$/.test(text)) throw refuse('has a family that is none of 0, 4, 6')
  return { family: Number(text) as 0 | 4 | 6 }
}

function refuseKeyPrefix(options: { keyPrefix?: string | undefined }): void {
  if (!options.keyPrefix) return
  throw configError(
    `redis: ioredis keyPrefix ${show(options.keyPrefix)} does not apply to SCAN, channels and tracking; remove it and use the namespace option`,
  )
}

/** By methods, not instanceof: two copies of ioredis in one tree are common. */
function isClient(value: object): value is Redis | Cluster {
  const client = value as {
    duplicate?: unknown
    sendCommand?: unknown
    options?: unknown
  }
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
  if (typeof node === 'object') return hostPort(node)
  return String(node).replace(/^.*@/, '')
}

function sentinelLabel(
  name: string | undefined,
  nodes: readonly { host?: string | undefined; port?: number | undefined }[],
): string {
  return `Redis Sentinel ${name} at ${nodes.map((node) => hostPort({ port: 26379, ...node })).join(',')}`
}

function hostPort({
  host = 'localhost',
  port = 6379,
}: {
  host?: string | undefined
  port?: number | undefined
}): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** The URL as it can stand in an error: without user, password and parameters, wherever a forgotten encoding puts them. */
function redacted(url: string): string {
  const [, scheme, rest = ''] = /^([a-z+]{1,20}:\/\/)?(.*)$/is.exec(url) ?? []
  if (scheme === undefined) return `${show(rest.slice(0, 20).replace(/[^A-Za-z0-9.-].*$/s, ''))}…`
  const at = rest.lastIndexOf('@')
  if (/[@/?#]/.test(rest.slice(0, Math.max(at, 0)))) return `'${scheme}…'` // no telling what is password and what is host
  return show(`${scheme}${at < 0 ? '' : '…@'}${rest.slice(at + 1).replace(/[?#].*$/s, '')}`)
}

function configError(message: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_REDIS_CONFIG', message)
}
