import type { Keys } from '../core/keys.ts'
import type { RedisSource } from '../redis/source.ts'
import { createHub, type Hub } from './hub.ts'

interface SharedHub {
  readonly namespace: string
  readonly source: RedisSource
  readonly hub: Hub
  users: number
}

const hubs = new Set<SharedHub>()

export interface HubHold {
  readonly hub: Hub
  /** The last one to let go closes the hub. Idempotent. */
  release(): Promise<void>
}

/** The hub of this process for a namespace and a Redis: the primary and its own bus share one. */
export function holdHub(keys: Keys, source: RedisSource): HubHold {
  const shared = find(keys.namespace, source) ?? open(keys, source)
  shared.users += 1
  let released = false
  return {
    hub: shared.hub,
    async release() {
      if (released) return
      released = true
      shared.users -= 1
      if (shared.users > 0) return
      hubs.delete(shared)
      await shared.hub.close()
    },
  }
}

function find(namespace: string, source: RedisSource): SharedHub | undefined {
  return [...hubs].find((shared) => shared.namespace === namespace && shared.source.id === source.id)
}

function open(keys: Keys, source: RedisSource): SharedHub {
  const shared = { namespace: keys.namespace, source, hub: createHub({ keys, source }), users: 0 }
  hubs.add(shared)
  return shared
}
