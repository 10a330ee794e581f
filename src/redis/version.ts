import type { Cluster, Redis } from 'ioredis'
import { messageOf, SharedStateError } from '../core/errors.ts'

const OLDEST = { redis: [7, 0], valkey: [7, 2] } as const

/**
 * Asks the server for its version.
 *
 * @throws SharedStateError `ERR_AS_ONE_REDIS_VERSION` when it is older than Redis 7.0 or Valkey 7.2
 */
export async function checkServerVersion(client: Redis | Cluster, label: string): Promise<void> {
  let info: string
  try {
    info = String(await client.info('server'))
  } catch (error) {
    if (messageOf(error).startsWith('NOPERM')) return // an ACL without INFO: the operator has decided
    throw error
  }
  const found = versionOf(info)
  if (!found) return
  const [major, minor] = OLDEST[found.server]
  const [foundMajor = 0, foundMinor = 0] = found.version.split('.').map(Number)
  if (foundMajor > major || (foundMajor === major && foundMinor >= minor)) return
  throw new SharedStateError(
    'ERR_AS_ONE_REDIS_VERSION',
    `${found.server} ${found.version} at ${label} is too old: as-one needs Redis >= 7.0 or Valkey >= 7.2`,
  )
}

/** Reads the `server` section of INFO; Valkey also reports the Redis version it is compatible with. */
export function versionOf(info: string): { server: keyof typeof OLDEST; version: string } | undefined {
  const valkey = /^valkey_version:(\S+)/m.exec(info)?.[1]
  if (valkey) return { server: 'valkey', version: valkey }
  const redis = /^redis_version:(\S+)/m.exec(info)?.[1]
  return redis ? { server: 'redis', version: redis } : undefined
}
