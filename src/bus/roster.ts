import { type MemberRecord, readMemberRecords } from './members.ts'

/** A hub that has not said anything for this long is gone, and its members with it. */
const LEASE_MS = 15_000
/** One whose members say that they have lost it is forgotten sooner; they need a moment to say where they are now. */
const SOON_MS = 2_000
/** Of all other hubs together; whoever can write to Redis can name as many as they like. */
const MAX_PEER_MEMBERS = 10_000

/** Who receives broadcasts: this hub's members at once, those of other hubs as long as they keep saying so. */
export interface Roster {
  readonly hub: string
  add(member: MemberRecord): void
  remove(id: string): void
  /** Takes another hub's word for its members, none of which are left when it has closed; returns the hub's id. */
  hear(value: Readonly<Record<string, unknown>>): string | undefined
  /** Returns the hubs that were forgotten. */
  forgetSilent(): readonly string[]
  /** Gives every other hub a new lease. */
  renew(): void
  /** Ends a hub's lease after `soonMs`, unless it speaks again; false when it is not known. */
  endSoon(hub: string): boolean
  readonly soonMs: number
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
      if (typeof peer !== 'string' || !/^[0-9a-f]{16}$/.test(peer)) return undefined
      const members = readMemberRecords(list)
      const said = JSON.stringify(members)
      const before = peers.get(peer)
      if (members.length === 0) {
        if (peers.delete(peer)) onChange()
        return peer
      }
      if (peerMembers() - (before?.members.length ?? 0) + members.length > MAX_PEER_MEMBERS) return undefined
      peers.set(peer, { members, said, heardAt: performance.now() })
      if (before?.said !== said) onChange()
      return peer
    },
    forgetSilent() {
      const oldest = performance.now() - LEASE_MS
      const silent = [...peers].filter(([, { heardAt }]) => heardAt < oldest).map(([peer]) => peer)
      for (const peer of silent) peers.delete(peer)
      if (silent.length > 0) onChange()
      return silent
    },
    renew() {
      for (const peer of peers.values()) peer.heardAt = performance.now()
    },
    endSoon(peer) {
      const known = peers.get(peer)
      if (known) known.heardAt = Math.min(known.heardAt, performance.now() - LEASE_MS + SOON_MS)
      return known !== undefined
    },
    soonMs: SOON_MS,
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
