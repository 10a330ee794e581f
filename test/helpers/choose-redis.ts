import { Redis } from 'ioredis'
import { type ClientOptions, spawnRedis } from './redis-server.ts'

export type RedisKind = 'url' | 'docker' | 'binary'

/** Plain data: it is handed to the test workers. */
export interface ChosenRedis {
  url: string
  kind: RedisKind
  version: string
}

export interface OpenRedis extends ChosenRedis {
  /** How long it took to get, for the log. */
  ms: number
  close(): Promise<void>
}

type Opened = Pick<OpenRedis, 'url' | 'close'>

const openers: Record<RedisKind, (env: NodeJS.ProcessEnv) => Promise<Opened>> = {
  async url({ REDIS_URL }) {
    if (!REDIS_URL) throw new Error('REDIS_URL is not set')
    if (!/^(rediss?|unix):\/\//.test(REDIS_URL))
      throw new Error('REDIS_URL is no redis:, rediss: or unix: URL')
    return { url: REDIS_URL, close: async () => {} }
  },

  async docker({ REDIS_IMAGE = 'redis:8-alpine' }) {
    const { GenericContainer, Wait } = await import('testcontainers') // 0.4 s that the other kinds need not pay
    const container = await new GenericContainer(REDIS_IMAGE)
      .withExposedPorts(6379)
      // The log line RedisContainer waits for is now and then missed after a restart.
      .withWaitStrategy(Wait.forSuccessfulCommand('redis-cli ping'))
      .start()
    return {
      url: `redis://${container.getHost()}:${container.getMappedPort(6379)}`,
      close: async () => void (await container.stop()),
    }
  },

  async binary() {
    const server = await spawnRedis()
    return { url: server.url, close: () => server.stop() }
  },
}

/**
 * AS_ONE_TEST_REDIS=url|docker|binary insists on one kind. `auto` (default) takes REDIS_URL if there is one,
 * else a container, else a private redis-server: the first that can be had, and never none in silence.
 */
export async function chooseRedis(env: NodeJS.ProcessEnv = process.env): Promise<OpenRedis> {
  const wanted = env.AS_ONE_TEST_REDIS ?? 'auto'
  if (wanted === 'auto') {
    // Someone who names a Redis wants that one or an error, not another.
    return openFirst(env.REDIS_URL ? ['url'] : ['docker', 'binary'], env)
  }
  if (wanted in openers) return openFirst([wanted as RedisKind], env)
  throw new Error(`AS_ONE_TEST_REDIS=${wanted} is none of url, docker, binary, auto`)
}

async function openFirst(kinds: RedisKind[], env: NodeJS.ProcessEnv): Promise<OpenRedis> {
  const reasons: string[] = []
  for (const kind of kinds) {
    const startedAt = performance.now()
    try {
      const opened = await openers[kind](env)
      try {
        const version = await versionOf(opened.url)
        return { ...opened, kind, version, ms: Math.round(performance.now() - startedAt) }
      } catch (error) {
        await opened.close()
        throw error
      }
    } catch (error) {
      reasons.push(`${kind}: ${error instanceof Error ? error.message : error}`)
    }
  }
  throw new Error(`no Redis for the tests\n  ${reasons.join('\n  ')}`)
}

/** ioredis takes the path of a unix socket, but no `unix:` URL. */
export function connectTo(url: string, options: ClientOptions = {}): Redis {
  return new Redis(url.replace(/^unix:\/\//, ''), options)
}

async function versionOf(url: string): Promise<string> {
  const client = connectTo(url, {
    lazyConnect: true,
    retryStrategy: null,
    connectTimeout: 5_000,
    commandTimeout: 5_000,
  })
  try {
    let reason: Error | undefined
    client.on('error', (error) => {
      reason = error
    })
    await client.connect().catch((error: unknown) => {
      throw reason ?? error // "Connection is closed." says less than what closed it
    })
    const info = await client.info('server')
    const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
    const valkey = field('valkey_version') // which also states the Redis version it is compatible with
    return valkey ? `valkey ${valkey}` : (field('redis_version') ?? 'unknown')
  } finally {
    client.disconnect()
  }
}
