import { type MemberRecord, readMemberRecords } from './members.ts'

/** A hub that has not said anything for this long is gone, and its members with it. */
const LEASE_MS = 15_000
/** Of all other hubs together; whoever can write to Redis can name as many as they like. */
const MAX_PEER_MEMBERS = 10_000

/** Who receives broadcasts: this hub's members at once, those of other hubs as long as they keep saying so. */
export interface Roster {
  readonly hub: string
  add(member: MemberRecord): void
  remove(id: string): void
  /** Takes another hub's word for its members; none means it has closed. */
  hear(value: Readonly<Record<string, unknown>>): void
  forgetSilent(): void
  own(): readonly MemberRecord[]
  all(): readonly MemberRecord[]
  clear(): void
}

export function createRoster(hub: string, onChange: () => void): Roster {
  const own = new Map<string, MemberRecord>()
  const peers = new Map<string, { members: readonly MemberRecord[]; said: string; heardAt: number }>()
  const peerMembers = (): number => {
    let count = 0
    for (const { members } of peers.values()) count += members.length
    return count
  }
  return {
    hub,
    add(member) {
      own.set(member.id, member)
      onChange()
    },
    remove(id) {
      if (own.delete(id)) onChange()
    },
    hear({ hub: peer, members: list }) {
      if (typeof peer !== 'string' || !/^[0-9a-f]{16}$/.test(peer)) return
      const members = readMemberRecords(list)
      const said = JSON.stringify(members)
      const before = peers.get(peer)
      if (members.length === 0) {
        if (peers.delete(peer)) onChange()
        return
      }
      if (peerMembers() - (before?.members.length ?? 0) + members.length > MAX_PEER_MEMBERS) return
      peers.set(peer, { members, said, heardAt: performance.now() })
      if (before?.said !== said) onChange()
    },
    forgetSilent() {
      const oldest = performance.now() - LEASE_MS
      let changed = false
      for (const [peer, { heardAt }] of peers) if (heardAt < oldest) changed = peers.delete(peer) || changed
      if (changed) onChange()
    },
    own: () => [...own.values()],
    all() {
      const found = new Map(own)
      for (const { members } of peers.values()) {
        // Once: a worker whose primary has died is still named by that hub until its lease ends.
        for (const member of members) if (!found.has(member.id)) found.set(member.id, member)
      }
      return [...found.values()]
    },
    clear() {
      own.clear()
      peers.clear()
    },
  }
}
