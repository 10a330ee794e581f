import { messageOf } from '../core/errors.ts'
import type { RedisClient } from '../redis/client.ts'

/** The key names of all masters, in batches; SCAN may name a key twice. */
export async function* scanKeys(client: RedisClient, pattern: string): AsyncGenerator<string[]> {
  for (const node of 'nodes' in client ? client.nodes('master') : [client]) {
    let cursor = '0'
    do {
      const [next, keys] = await node.scan(cursor, 'MATCH', pattern, 'COUNT', 500)
      cursor = next
      if (keys.length > 0) yield keys
    } while (cursor !== '0')
  }
}

export async function allKeys(client: RedisClient, pattern: string): Promise<Set<string>> {
  const found = new Set<string>()
  for await (const keys of scanKeys(client, pattern)) for (const key of keys) found.add(key)
  return found
}

/** For whoever reads many: a key of another type, which somebody else has put there, counts as `instead`. */
export function unlessWrongType<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (messageOf(error).startsWith('WRONGTYPE')) return instead
    throw error
  }
}
