import { type MemberRecord, readMemberRecords } from './members.ts'

/** A hub that has not said anything for this long is gone, and its members with it. */
const LEASE_MS = 15_000
const MAX_HUBS = 10_000

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
      if (before === undefined && peers.size >= MAX_HUBS) return
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
    all: () => [...own.values(), ...[...peers.values()].flatMap((peer) => peer.members)],
    clear() {
      own.clear()
      peers.clear()
    },
  }
}
