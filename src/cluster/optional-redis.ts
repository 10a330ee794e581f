import { randomUUID } from 'node:crypto'
import { messageOf } from '../core/errors.ts'
import { createRedisSource, type RedisSource } from '../redis/source.ts'
import { checkRedis } from './check-redis.ts'

export interface OptionalRedis {
  /** Means nothing before `settle()`. */
  readonly source: RedisSource
  /** Tries it. Resolves with the reason when there is none; never rejects. */
  settle(): Promise<string | undefined>
}

/**
 * For a script that need not know of us, and so perhaps of no Redis either, where nobody has named one: the managed
 * local Redis if it can be had, else none, which an app that does use shared state learns at its first use.
 */
export function redisIfThere(
  env: NodeJS.ProcessEnv,
  place: { readonly name: string; readonly cwd: string },
): OptionalRedis {
  let found: RedisSource = noRedis(undefined)
  return {
    source: {
      get label() {
        return found.label
      },
      get id() {
        return found.id
      },
      get local() {
        return found.local
      },
      target: () => found.target(),
      close: () => found.close(),
    },
    async settle() {
      try {
        found = createRedisSource(undefined, { ...place, env })
        await checkRedis(found)
        return undefined
      } catch (error) {
        const half = found
        found = noRedis(error)
        await half.close().catch(() => {}) // it is the one that did not start
        return messageOf(error)
      }
    },
  }
}

function noRedis(reason: unknown): RedisSource {
  return {
    label: 'none',
    id: randomUUID(),
    local: false,
    target: () => Promise.reject(reason),
    close: () => Promise.resolve(),
  }
}
