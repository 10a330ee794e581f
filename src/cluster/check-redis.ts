import { CONNECT_DEADLINE_MS, createRedisConnection } from '../redis/client.ts'
import type { RedisSource } from '../redis/source.ts'

/**
 * A start without a usable Redis fails at once and with the reason, not at the first request.
 *
 * @throws SharedStateError `ERR_AS_ONE_REDIS_…`, `ERR_AS_ONE_LOCAL_REDIS`
 */
export async function checkRedis(source: RedisSource): Promise<void> {
  const connection = createRedisConnection(source, 'as-one:check')
  try {
    await connection.ready({ timeoutMs: CONNECT_DEADLINE_MS })
  } finally {
    await connection.close()
  }
}
