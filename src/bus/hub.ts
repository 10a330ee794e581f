import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { Keys } from '../core/keys.ts'
import { createRedisConnection } from '../redis/client.ts'
import type { RedisSource } from '../redis/source.ts'
import { openSubscriber } from '../redis/subscriber.ts'
import {
  decodeControl,
  encodeControl,
  framesOf,
  ID_BYTES,
  isFromHub,
  Kind,
  kindOf,
  receiptOf,
  stampHub,
} from './frame.ts'
import { type CacheNewsPort, createInvalidationRelay } from './invalidations.ts'
import type { MemberRecord } from './members.ts'
import { createOutbox, type RemoteOutcome } from './outbox.ts'
import { createRoster } from './roster.ts'

export interface Receipt {
  /** Receivers on this machine, other than the sender, that the message was handed to. */
  readonly local: number
  /** Whether Redis has it for the other machines: `queued` is sent when Redis is back, `dropped` never. */
  readonly remote: RemoteOutcome
}

/** What a hub tells a member. Calls come in the order things happened. */
export interface HubPort {
  /** A frame of messages from another process; false when this member is too far behind to take it. */
  deliver(frame: Buffer): boolean
  members(list: readonly MemberRecord[]): void
  /** Whether other machines can be heard and reached. */
  remote(up: boolean): void
  receipt(id: number, receipt: Receipt): void
  /** Only after `HubSeat.track`. */
  readonly cacheNews: CacheNewsPort
}

/** What a member can do at its hub. */
export interface HubSeat {
  /** Takes one frame of messages, which then belongs to the hub; false when it could not. */
  send(frame: Buffer): boolean
  /** Wants news of the cache's keys, with a proof this often in ms; 0: no more. */
  track(everyMs: number): void
  /** Resolves when what was sent has left this process or reached the hub. */
  leave(): Promise<void>
}

/**
 * The machine's junction: relays frames between its members in order, sends them to the other machines' hubs with one
 * PUBLISH per tick, and passes on what those send. Two Redis connections, whatever the number of members.
 */
export interface Hub {
  readonly id: string
  /** `member` undefined: a seat that sends and hears nothing, as the primary's. */
  join(member: MemberRecord | undefined, port: HubPort): HubSeat
  /** Sends what is queued, as far as Redis takes it within a second. */
  flush(): Promise<void>
  /** Sends what is queued, tells the other hubs, closes both connections. Idempotent. */
  close(): Promise<void>
}

/** A hub says at least this often who its members are; three misses and the others forget them. */
const ROSTER_EVERY_MS = 5_000
const CLOSE_DEADLINE_MS = 1_000

export function createHub({ keys, source }: { keys: Keys; source: RedisSource }): Hub {
  const id = randomBytes(ID_BYTES)
  const channel = keys.prefix('bus')
  const ports = new Map<HubPort, MemberRecord | undefined>()
  const roster = createRoster(id.toString('hex'), () => tellMembers())
  const commands = createRedisConnection(source, 'as-one:hub')
  const outbox = createOutbox(commands, channel)
  const invalidations = createInvalidationRelay(source, commands, keys.prefix('cache'))
  let heard = false
  let reachable = false
  let remote = false
  let rosterDue = false
  let closing: Promise<void> | undefined

  const subscriber = openSubscriber(source, {
    channel,
    connectionName: 'as-one:hub-subscriber',
    onMessage: receive,
    onUp() {
      heard = true
      outbox.add(encodeControl(Kind.who, { hub: roster.hub }))
      tellPeers()
      tellRemote()
    },
    onDown(reason) {
      heard = false
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'hub-down', reason })
      tellRemote()
    },
  })
  commands.onChange((state) => {
    reachable = state === 'up'
    tellRemote()
    if (reachable) outbox.flush()
  })
  connectCommands()
  const rosterTimer = setInterval(() => {
    roster.forgetSilent()
    tellPeers()
  }, ROSTER_EVERY_MS).unref()

  function connectCommands(): void {
    commands.ready().catch((error: unknown) => {
      if (closing) return
      if (channels.bus.hasSubscribers)
        channels.bus.publish({ event: 'hub-unreachable', reason: messageOf(error) })
      // The client itself goes on trying; a source that could not start has to be asked again.
      if (!reachable) setTimeout(connectCommands, ROSTER_EVERY_MS).unref()
    })
  }

  function tellRemote(): void {
    if (remote === (heard && reachable)) return
    remote = heard && reachable
    for (const port of ports.keys()) port.remote(remote)
  }

  function tellMembers(): void {
    const list = roster.all()
    for (const port of ports.keys()) port.members(list)
  }

  /** Once for all that has changed or asked in this tick: after an outage every hub asks every other one. */
  function tellPeers(): void {
    if (rosterDue || closing) return
    rosterDue = true
    setImmediate(() => {
      rosterDue = false
      if (!closing) sayRoster()
    })
  }

  function sayRoster(): void {
    if (heard) outbox.add(encodeControl(Kind.roster, { hub: roster.hub, members: roster.own() }))
  }

  function receive(message: Buffer): void {
    try {
      for (const frame of framesOf(message)) receiveFrame(frame)
    } catch (error) {
      // Whoever can write to Redis can send anything; it costs a message, never the process.
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'bad-frame', reason: messageOf(error) })
    }
  }

  function receiveFrame(frame: Buffer): void {
    const kind = kindOf(frame)
    if (kind === Kind.messages) {
      if (!isFromHub(frame, id)) for (const [port, member] of ports) if (member) port.deliver(frame)
      return
    }
    const value = decodeControl(frame)
    if (value === undefined || value.hub === roster.hub) return
    if (kind === Kind.roster) roster.hear(value)
    else if (kind === Kind.who) tellPeers()
  }

  function relay(frame: Buffer, from: HubPort): boolean {
    stampHub(frame, id)
    let local = 0
    for (const [port, member] of ports) {
      if (port === from || member === undefined) continue
      if (port.deliver(frame)) local += 1
    }
    const receipt = receiptOf(frame)
    if (receipt === 0) outbox.add(frame)
    else outbox.add(frame, (outcome) => from.receipt(receipt, { local, remote: outcome }))
    return true
  }

  async function close(): Promise<void> {
    clearInterval(rosterTimer)
    invalidations.close()
    roster.clear()
    sayRoster()
    await outbox.drain(CLOSE_DEADLINE_MS)
    subscriber.close()
    await commands.close()
  }

  return {
    id: roster.hub,
    join(member, port) {
      ports.set(port, member)
      if (member) roster.add({ ...member, machine: hostname() })
      port.members(roster.all())
      port.remote(remote)
      if (member) tellPeers()
      return {
        send: (frame) => relay(frame, port),
        track: (everyMs) => invalidations.want(port.cacheNews, everyMs),
        async leave() {
          invalidations.want(port.cacheNews, 0)
          if (!ports.delete(port) || !member) return
          roster.remove(member.id)
          tellPeers()
        },
      }
    },
    flush: () => outbox.drain(CLOSE_DEADLINE_MS),
    close() {
      closing ??= close()
      return closing
    },
  }
}
