import type { Keys } from '../core/keys.ts'
import type { RedisSource } from '../redis/source.ts'
import { createHub, type Hub } from './hub.ts'

interface SharedHub {
  readonly namespace: string
  readonly id: string
  readonly hub: Hub
  /** One for each user; the first is the one the hub asks. */
  readonly sources: RedisSource[]
}

const hubs = new Set<SharedHub>()

export interface HubHold {
  readonly hub: Hub
  /** Sends what is queued; the last one to let go closes the hub. Idempotent. */
  release(): Promise<void>
}

/** The hub of this process for a namespace and a Redis: the primary and its own bus share one. */
export function holdHub(keys: Keys, source: RedisSource): HubHold {
  const shared = find(keys.namespace, source.id) ?? open(keys, source)
  shared.sources.push(source)
  let released: Promise<void> | undefined
  return {
    hub: shared.hub,
    release() {
      released ??= release(shared, source)
      return released
    },
  }
}

async function release(shared: SharedHub, source: RedisSource): Promise<void> {
  const { sources, hub } = shared
  if (sources.length === 1) {
    hubs.delete(shared)
    sources.length = 0
    await hub.close()
    return
  }
  const wasAsked = sources[0] === source
  sources.splice(sources.indexOf(source), 1)
  await hub.flush()
  // Our source is about to leave the managed local Redis: first somebody else has to hold it.
  if (wasAsked && source.local) await sources[0]?.target().catch(() => {})
}

function find(namespace: string, id: string): SharedHub | undefined {
  return [...hubs].find((shared) => shared.namespace === namespace && shared.id === id)
}

function open(keys: Keys, source: RedisSource): SharedHub {
  const { label, id, local } = source
  const sources: RedisSource[] = []
  const asked: RedisSource = {
    label,
    id,
    local,
    target: () => (sources[0] ?? source).target(),
    close: () => Promise.resolve(), // each user closes its own
  }
  const shared = { namespace: keys.namespace, id, hub: createHub({ keys, source: asked }), sources }
  hubs.add(shared)
  return shared
}
