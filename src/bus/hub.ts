import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import type { Keys } from '../core/keys.ts'
import { createRedisConnection } from '../redis/client.ts'
import type { RedisSource } from '../redis/source.ts'
import { openSubscriber } from '../redis/subscriber.ts'
import { createCompany } from './company.ts'
import {
  decodeControl,
  encodeControl,
  framesOf,
  hubOf,
  ID_BYTES,
  isFromHub,
  Kind,
  kindOf,
  lastSequenceOf,
  publisherOf,
  receiptOf,
  Stream,
  stampHub,
  streamKeyOf,
  streamOf,
  targetOf,
} from './frame.ts'
import { type CacheNewsPort, createInvalidationRelay } from './invalidations.ts'
import { type AppendRequest, createLogDesk, type LogPage, type ReplayRequest } from './log-desk.ts'
import type { MemberRecord } from './members.ts'
import { createOutbox, publishOn, type RemoteOutcome } from './outbox.ts'
import { createPeerPositions } from './peer-positions.ts'
import { BoundedMap, type Positions, readPositions } from './positions.ts'
import { createRollCall } from './roll-call.ts'
import { createRoster } from './roster.ts'

export interface Receipt {
  /** Receivers on this machine, other than the sender, that the message was handed to. */
  readonly local: number
  /**
   * Whether Redis has it for the other machines: `queued` is sent when Redis is back, `dropped` never; `none` when it is
   * not meant for them.
   */
  readonly remote: RemoteOutcome | 'none'
}

/** What a hub tells a member. Calls come in the order things happened. */
export interface HubPort {
  /** Member id of whoever sits here, a member or not. */
  readonly id: string
  /** Whether messages to the primary are for this one. */
  readonly isPrimary?: boolean
  /** A frame of messages from another process; false when this member is too far behind to take it. */
  deliver(frame: Buffer): boolean
  members(list: readonly MemberRecord[]): void
  /**
   * Whether other machines can be heard and reached; if not, why. `isUnanswered`: one of them does not know of us yet, and
   * what it has published may be missing.
   */
  remote(up: boolean, reason?: string, isUnanswered?: boolean): void
  /** How far the publishers are; whoever has heard less has missed something. */
  positions(positions: Positions): void
  /** Entries of a log topic: as they are written, or as asked for by `HubSeat.replay`. */
  log(page: LogPage, frame: () => Buffer): void
  receipt(id: number, receipt: Receipt): void
  /** Only after `HubSeat.track`. */
  readonly cacheNews: CacheNewsPort
}

/** What a member can do at its hub. */
export interface HubSeat {
  /** Takes one frame of messages, which then belongs to the hub; false when it could not. */
  send(frame: Buffer): boolean
  /** Tells how far its own streams are, after some of it could not be sent. */
  note(positions: Positions): void
  /** Writes messages to a log topic; false when it could not. */
  append(request: AppendRequest): boolean
  /** Asks for the entries of a log topic behind a certain one. */
  replay(request: ReplayRequest): void
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
  /**
   * `member` undefined: a seat that sends and is no receiver of "everyone", as the primary's.
   * `formerHub`: the one it has lost; the other hubs forget that soon.
   */
  join(member: MemberRecord | undefined, port: HubPort, formerHub?: string): HubSeat
  /** Sends what is queued, as far as Redis takes it within a second. */
  flush(): Promise<void>
  /** Sends what is queued, tells the other hubs, closes both connections. Idempotent. */
  close(): Promise<void>
}

/** A hub says at least this often who its members are and how far; three misses and the others forget them. */
const HEARTBEAT_MS = 5_000
/** A member that has left is still told of, for whoever could not hear it at the time. */
const DEPARTED_MS = 60_000
const MAX_DEPARTED = 1_000
const CLOSE_DEADLINE_MS = 1_000

interface Seat {
  readonly port: HubPort
  readonly member: MemberRecord | undefined
  /** Last sequence number of each stream that came from here. */
  readonly sent: Map<string, number>
}

export function createHub({ keys, source }: { keys: Keys; source: RedisSource }): Hub {
  const id = randomBytes(ID_BYTES)
  const channel = keys.prefix('bus')
  const seats = new Map<HubPort, Seat>()
  const byId = new Map<string, Seat>()
  const roster = createRoster(id.toString('hex'), () => tellMembers())
  const commands = createRedisConnection(source, 'as-one:hub')
  const company = createCompany()
  const rollCall = createRollCall(roster.hub, () => tellRemote())
  const outbox = createOutbox(commands, publishOn(channel), company.counted)
  const logs = createLogDesk(commands, keys)
  const invalidations = createInvalidationRelay(source, commands, keys.prefix('cache'))
  /** Last sequence number of each stream of other machines. */
  const heardOf = new BoundedMap<number>()
  const peers = createPeerPositions()
  const departed = new BoundedMap<{ last: number; at: number }>(MAX_DEPARTED)
  const otherVersions = new Set<number>()
  const formerHubs = new Set<string>()
  let heard = false
  let reachable = false
  let connected = false
  let remote = false
  let trouble: string | undefined
  let heartbeatDue = false
  let closing: Promise<void> | undefined

  const subscriber = openSubscriber(source, {
    channel,
    connectionName: 'as-one:hub-subscriber',
    onMessage: receive,
    onUp() {
      heard = true
      roster.renew() // nobody could be heard meanwhile: silence meant nothing
      connectionChanged()
    },
    onDown(reason) {
      heard = false
      trouble = reason
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'hub-down', reason })
      connectionChanged()
    },
  })
  commands.onChange((state) => {
    reachable = state === 'up'
    connectionChanged()
    if (!reachable) return
    outbox.flush()
    logs.flush()
  })
  connectCommands()
  const heartbeatTimer = setInterval(() => {
    forgetSilent()
    beat()
    void leaveReplica()
  }, HEARTBEAT_MS).unref()

  function connectCommands(): void {
    commands.ready().catch((error: unknown) => {
      if (closing) return
      trouble = messageOf(error)
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'hub-unreachable', reason: trouble })
      for (const port of seats.keys()) port.remote(remote, trouble, remote && rollCall.isUnanswered)
      // The client itself goes on trying; a source that could not start has to be asked again.
      if (!reachable) setTimeout(connectCommands, HEARTBEAT_MS).unref()
    })
  }

  /** PUBLISH on a replica is no error, but nobody behind the new master hears it. */
  async function leaveReplica(): Promise<void> {
    if (await commands.leaveReplica()) subscriber.renew('the server has become a replica')
  }

  function connectionChanged(): void {
    if (connected === (heard && reachable)) return
    connected = heard && reachable
    if (connected) {
      const question = rollCall.begin()
      outbox.add(encodeControl(Kind.who, { hub: roster.hub, question }), undefined, (listeners) =>
        rollCall.counted(question, listeners === undefined ? undefined : listeners - 1),
      )
      beat()
      void leaveReplica() // from there others would hear neither our question nor what we publish
    } else {
      rollCall.end()
      company.forget()
    }
    tellRemote()
  }

  function tellRemote(): void {
    if (remote === (connected && rollCall.isOver)) return
    remote = connected && rollCall.isOver
    for (const port of seats.keys()) tellRemoteTo(port)
  }

  function tellRemoteTo(port: HubPort): void {
    if (remote) port.remote(true, undefined, rollCall.isUnanswered)
    else port.remote(false, trouble)
  }

  function tellMembers(): void {
    const list = roster.all()
    for (const port of seats.keys()) port.members(list)
  }

  function tellPositions(positions: Positions, except?: HubPort): void {
    if (positions.at.length === 0 && !positions.gone?.length) return
    for (const port of seats.keys()) if (port !== except) port.positions(positions)
  }

  function forgetSilent(): void {
    if (!heard) return // it is we who cannot hear
    for (const peer of roster.forgetSilent())
      tellPositions({ at: [], cause: 'publisher-lost', gone: peers.forget(peer) })
  }

  /** Once for all that has changed or asked in this tick: after an outage every hub asks every other one. */
  function beat(): void {
    if (heartbeatDue || closing) return
    heartbeatDue = true
    setImmediate(() => {
      heartbeatDue = false
      if (!closing) sayHeartbeat()
    })
  }

  function sayHeartbeat(): void {
    if (!heard) return
    const at = [...seats.values()].flatMap(({ sent }) => remotePositions(sent))
    const ended: string[] = []
    const oldest = performance.now() - DEPARTED_MS
    for (const [key, { last, at: leftAt }] of departed) {
      if (leftAt < oldest) departed.delete(key)
      else {
        at.push([key, last])
        ended.push(publisherOf(key))
      }
    }
    const answers = rollCall.takeQuestions()
    const value = { hub: roster.hub, members: roster.own(), at, ended, formerHubs: [...formerHubs], answers }
    outbox.add(encodeControl(Kind.roster, value))
  }

  function receive(message: Buffer): void {
    try {
      for (const frame of framesOf(message, onOtherVersion)) receiveFrame(frame)
    } catch (error) {
      // Whoever can write to Redis can send anything; it costs a message, never the process.
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'bad-frame', reason: messageOf(error) })
    }
  }

  /** Another release publishes here too: what it says cannot be read, so it is reported as missing. */
  function onOtherVersion(version: number, frame: Buffer | undefined): void {
    company.heard()
    if (!otherVersions.has(version)) {
      otherVersions.add(version)
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'version-skew', version })
    }
    if (!frame || !(lastSequenceOf(frame) > 0)) return
    const before = lastSequenceOf(frame) - frame.readUInt32LE(12)
    const key = streamKeyOf(frame)
    tellPositions(readPositions({ at: [[key, before]], cause: 'reconnect' }))
    tellPositions(readPositions({ at: [[key, lastSequenceOf(frame)]], cause: 'version' }))
  }

  function receiveFrame(frame: Buffer): void {
    const kind = kindOf(frame)
    if (kind === Kind.messages) {
      if (!isFromHub(frame, id)) receiveMessages(frame)
      return
    }
    const value = decodeControl(frame)
    if (value === undefined) return
    if (kind === Kind.log) {
      const page = logs.read(value)
      if (page) for (const { port, member } of seats.values()) if (member) port.log(page, () => frame)
      return
    }
    if (value.hub === roster.hub) return
    company.heard() // from here on it gets all that we relay; that it missed what came before, our heartbeat tells
    if (kind === Kind.roster) hearPeer(value)
    else if (kind === Kind.who) {
      rollCall.ask(value.question)
      beat()
    }
  }

  function receiveMessages(frame: Buffer): void {
    company.heard()
    const stream = streamOf(frame)
    const last = lastSequenceOf(frame)
    if (stream === Stream.direct) byId.get(targetOf(frame))?.port.deliver(frame)
    else if (stream === Stream.everyone)
      for (const { port, member } of seats.values()) if (member) port.deliver(frame)
    const key = streamKeyOf(frame)
    peers.saw(hubOf(frame), publisherOf(key))
    if (Number.isSafeInteger(last) && last > (heardOf.get(key) ?? 0)) heardOf.set(key, last)
  }

  function hearPeer(value: Readonly<Record<string, unknown>>): void {
    const peer = roster.hear(value)
    if (peer === undefined) return
    const { at } = readPositions(value)
    for (const [key, last] of at) if (last > (heardOf.get(key) ?? -1)) heardOf.set(key, last)
    const named = at.map(([key]) => publisherOf(key))
    const gone = peers.hear(peer, named, new Set(Array.isArray(value.ended) ? value.ended : []))
    tellPositions({ at, cause: 'reconnect', gone })
    rollCall.answered(peer, value.answers) // behind its positions: they are where a newcomer begins
    if (Array.isArray(value.formerHubs))
      for (const former of value.formerHubs) {
        if (typeof former !== 'string' || former === roster.hub || !roster.endSoon(former)) continue
        setTimeout(() => !closing && forgetSilent(), roster.soonMs + 10).unref()
      }
  }

  function relay(frame: Buffer, from: Seat): void {
    stampHub(frame, id)
    from.sent.set(streamKeyOf(frame), lastSequenceOf(frame))
    const stream = streamOf(frame)
    const receipt = receiptOf(frame)
    if (stream === Stream.everyone || stream === Stream.machine) {
      let local = 0
      for (const { port, member } of seats.values())
        if (port !== from.port && member && port.deliver(frame)) local += 1
      if (stream === Stream.everyone) passOn(frame, receipt, local, from)
      else if (receipt !== 0) from.port.receipt(receipt, { local, remote: 'none' })
      return
    }
    if (stream === Stream.primary) {
      let local = 0
      for (const { port } of seats.values()) if (port.isPrimary && port.deliver(frame)) local += 1
      if (receipt !== 0) from.port.receipt(receipt, { local, remote: 'none' })
      return
    }
    const target = byId.get(targetOf(frame))
    if (!target) passOn(frame, receipt, 0, from)
    else {
      const local = target.port.deliver(frame) ? 1 : 0
      if (receipt !== 0) from.port.receipt(receipt, { local, remote: 'none' })
    }
  }

  /** What nobody else would get is not sent, except for a receipt that says so. */
  function passOn(frame: Buffer, receipt: number, local: number, from: Seat): void {
    if (receipt === 0) {
      if (!(connected && company.isAlone)) outbox.add(frame)
    } else outbox.add(frame, (outcome) => from.port.receipt(receipt, { local, remote: outcome }))
  }

  function leave(seat: Seat): void {
    if (!seats.delete(seat.port)) return
    if (byId.get(seat.port.id) === seat) byId.delete(seat.port.id)
    invalidations.want(seat.port.cacheNews, 0)
    for (const [key, last] of remotePositions(seat.sent)) departed.set(key, { last, at: performance.now() })
    if (seat.member) roster.remove(seat.member.id)
    beat()
  }

  /** What a newcomer has to know so that it can tell later what it has missed. */
  function positionsFor(newcomer: string): Positions {
    const at: [string, number][] = []
    for (const seat of seats.values()) if (seat.port.id !== newcomer) at.push(...seat.sent)
    at.push(...heardOf)
    const isTheirs = ([key]: [string, number]): boolean => !key.includes('>') || key.endsWith(`>${newcomer}`)
    return { at: at.filter(isTheirs), cause: 'reconnect', baseline: true }
  }

  async function close(): Promise<void> {
    clearInterval(heartbeatTimer)
    invalidations.close()
    for (const seat of [...seats.values()]) leave(seat)
    rollCall.end()
    subscriber.close() // whoever asks from now on is not to wait for our answer
    sayHeartbeat()
    await Promise.all([outbox.drain(CLOSE_DEADLINE_MS), logs.drain(CLOSE_DEADLINE_MS)])
    await commands.close()
  }

  return {
    id: roster.hub,
    join(member, port, formerHub) {
      const seat: Seat = { port, member, sent: new Map() }
      seats.set(port, seat)
      byId.set(port.id, seat)
      if (formerHub !== undefined) formerHubs.add(formerHub)
      else if (!departed.has(port.id)) {
        // Whoever knows that nothing has been sent yet will notice should the first message be missing.
        seat.sent.set(port.id, 0)
        tellPositions({ at: [[port.id, 0]], cause: 'dropped' }, port)
      }
      if (member) roster.add({ ...member, machine: hostname() })
      port.members(roster.all())
      port.positions(positionsFor(port.id))
      tellRemoteTo(port)
      if (member) beat()
      return {
        send(frame) {
          relay(frame, seat)
          return true
        },
        note(positions) {
          const at = positions.at.filter(([key]) => publisherOf(key) === port.id)
          for (const [key, last] of at) seat.sent.set(key, last)
          tellPositions({ at, cause: positions.cause }, port)
          beat()
        },
        append: (request) => logs.append(request, (receipt) => port.receipt(request.receipt, receipt)),
        replay: (request) =>
          void logs.replay(request).then((page) => {
            if (seats.has(port)) port.log(page, () => encodeControl(Kind.page, page))
          }),
        track: (everyMs) => invalidations.want(port.cacheNews, everyMs),
        async leave() {
          leave(seat)
        },
      }
    },
    async flush() {
      await Promise.all([outbox.drain(CLOSE_DEADLINE_MS), logs.drain(CLOSE_DEADLINE_MS)])
    },
    close() {
      closing ??= close()
      return closing
    },
  }
}

/** Without the streams that never leave the machine. */
function remotePositions(sent: ReadonlyMap<string, number>): [string, number][] {
  return [...sent].filter(([key]) => !key.includes(':'))
}
