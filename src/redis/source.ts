import { randomUUID } from 'node:crypto'
import { channels } from '../core/channels.ts'
import { type LocalRedis, startLocalRedis } from './local-redis.ts'
import type { RedisOption, RedisTarget } from './target.ts'
import { resolveRedis } from './target.ts'

/** A target that a client can connect to: the managed local Redis has become a socket by then. */
export type ConnectTarget = Exclude<RedisTarget, { kind: 'local' }>

/** Where an instance's connections go. Asking for the target is what starts a managed local Redis. */
export interface RedisSource {
  /** For people; never holds a password. */
  readonly label: string
  /** The same in two processes that were given the same URL; options and instances get one of their own. */
  readonly id: string
  /** True for the managed local Redis. */
  readonly local: boolean
  target(): Promise<ConnectTarget>
  /** Leaves the managed local Redis, if this source has started or joined it. */
  close(): Promise<void>
}

/**
 * Resolves the `redis` option or the environment, at once, so that mistakes in it are found before anything starts.
 *
 * @throws SharedStateError `ERR_AS_ONE_REDIS_CONFIG`
 */
export function createRedisSource(
  option: RedisOption | undefined,
  {
    name,
    env,
    cwd,
    id,
  }: {
    name: string
    env: NodeJS.ProcessEnv
    cwd: string
    id?: string | undefined
  },
): RedisSource {
  const target = resolveRedis(option, env)
  if (target.kind !== 'local') {
    return {
      label: target.label,
      id: id ?? target.id ?? randomUUID(),
      local: false,
      target: () => Promise.resolve(target),
      close: () => Promise.resolve(),
    }
  }
  const localId = id ?? `local:${name}:${cwd}`
  let local: Promise<LocalRedis> | undefined
  return {
    label: target.label,
    id: localId,
    local: true,
    async target() {
      local ??= startLocalRedis({ name, cwd, env }).then(tellOf, (error: unknown) => {
        local = undefined // the next use tries again: the reason may have been cured
        throw error
      })
      const { socketPath } = await local
      return {
        kind: 'server',
        label: socketPath,
        id: localId,
        options: { path: socketPath },
      }
    },
    async close() {
      const started = local
      local = undefined
      if (started) await (await started).stop()
    },
  }
}

function tellOf(local: LocalRedis): LocalRedis {
  local.on('down', (error) => channels.redis.publish({ event: 'local-redis-down', error }))
  local.on('restarted', ({ pid }) => channels.redis.publish({ event: 'local-redis-restarted', pid }))
  return local
}
