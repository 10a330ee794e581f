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
