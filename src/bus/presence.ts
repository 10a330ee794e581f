import { withDeadline } from '../core/abort.ts'
import { SharedStateError } from '../core/errors.ts'
import { processRole } from '../core/role.ts'
import type { Member, MemberRecord } from './members.ts'

export interface PresenceOptions {
  readonly id: string
  readonly label: () => string
  onJoin(member: Member): void
  onLeave(member: Member): void
  onReachable(up: boolean): void
}

/** What this process knows of the others: who they are, and whether other machines can be heard at all. */
export interface Presence {
  readonly members: readonly Member[]
  setMembers(list: readonly MemberRecord[]): void
  setReachable(up: boolean, reason?: string): void
  /** Resolves once other machines can be heard; at once in a primary, which receives nothing. */
  ready(signal: AbortSignal | undefined): Promise<void>
  /** Whoever waits need not any more. */
  release(error?: Error): void
}

const READY_DEADLINE_MS = 10_000
/** A start takes a moment; only past it is not being connected worth an event. */
const START_MS = 2_000

export function createPresence({ id, label, onJoin, onLeave, onReachable }: PresenceOptions): Presence {
  const waiters = new Set<{ resolve(): void; reject(error: Error): void }>()
  let members: readonly Member[] = []
  let reachable: boolean | undefined
  let told = true
  let reason: string | undefined
  let startTimer: NodeJS.Timeout | undefined

  /** 'degraded' and 'restored' alternate; the first connection is no restoration. */
  function tell(up: boolean): void {
    if (told === up) return
    told = up
    onReachable(up)
  }

  function release(error?: Error): void {
    clearTimeout(startTimer)
    for (const waiter of waiters) error ? waiter.reject(error) : waiter.resolve()
    waiters.clear()
  }

  const notReady = (): Error =>
    new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      reason === undefined
        ? `Redis at ${label()} has not answered for ${READY_DEADLINE_MS} ms; other machines cannot be heard until it does`
        : `other machines cannot be heard through Redis at ${label()}, tried for ${READY_DEADLINE_MS} ms: ${reason}`,
    )

  return {
    get members() {
      return members
    },
    setMembers(list) {
      const before = new Map(members.map((member) => [member.id, member]))
      members = list.map((record) => before.get(record.id) ?? { ...record, self: record.id === id })
      const now = new Set(members.map((member) => member.id))
      for (const member of members) if (!before.has(member.id)) onJoin(member)
      for (const member of before.values()) if (!now.has(member.id)) onLeave(member)
    },
    setReachable(up, why) {
      reason = up ? undefined : (why ?? reason)
      const first = reachable === undefined
      if (reachable === up) return
      reachable = up
      if (up) {
        release()
        tell(true)
      } else if (first) {
        startTimer = setTimeout(() => !reachable && tell(false), START_MS)
        startTimer.unref()
      } else tell(false)
    },
    ready(signal) {
      if (!signal?.aborted && (reachable || processRole() === 'primary')) return Promise.resolve()
      let waiter: { resolve(): void; reject(error: Error): void } | undefined
      const heard = new Promise<void>((resolve, reject) => {
        waiter = { resolve, reject }
        waiters.add(waiter)
      })
      return withDeadline(heard, READY_DEADLINE_MS, notReady, signal).finally(
        () => waiter && waiters.delete(waiter),
      )
    },
    release,
  }
}
