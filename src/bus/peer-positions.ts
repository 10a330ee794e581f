import { BoundedMap } from './positions.ts'

/** Of one hub; whoever can write to Redis can name as many as they like. */
const MAX_PUBLISHERS = 10_000

/** Which publishers each other hub speaks for, to find those that end without a last word. */
export interface PeerPositions {
  /**
   * Takes the publishers a hub names, and those of them whose last word this is; returns those that no hub names any more
   * and whose last word is not known.
   */
  hear(hub: string, publishers: readonly string[], ended: ReadonlySet<string>): readonly string[]
  /** A message of this publisher came through this hub. */
  saw(hub: string, publisher: string): void
  /** The hub is gone; returns the publishers that no other hub names. */
  forget(hub: string): readonly string[]
}

export function createPeerPositions(): PeerPositions {
  const namedBy = new BoundedMap<Set<string>>()

  function lostSince(before: ReadonlySet<string> | undefined): readonly string[] {
    if (!before) return []
    const named = (publisher: string): boolean => [...namedBy.values()].some((set) => set.has(publisher))
    return [...before].filter((publisher) => !named(publisher))
  }

  return {
    hear(hub, publishers, ended) {
      const before = namedBy.get(hub)
      namedBy.set(hub, new Set(publishers.filter((publisher) => !ended.has(publisher))))
      return lostSince(before).filter((publisher) => !ended.has(publisher))
    },
    saw(hub, publisher) {
      const named = namedBy.get(hub)
      if (!named) namedBy.set(hub, new Set([publisher]))
      else if (named.size < MAX_PUBLISHERS) named.add(publisher)
    },
    forget(hub) {
      const before = namedBy.get(hub)
      namedBy.delete(hub)
      return lostSince(before)
    },
  }
}
