import { timingSafeEqual } from 'node:crypto'
import { Socket } from 'node:net'
import { isMainThread } from 'node:worker_threads'
import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { BadFrame, decodeControl, encodeControl, FrameReader, Kind, kindOf, receiptOf } from './frame.ts'
import type { Hub, HubPort, HubSeat, Receipt } from './hub.ts'
import { readCacheNews } from './invalidations.ts'
import { createLane, type Overflow } from './lane.ts'
import { type AppendRequest, LOG_ID, readLogPage } from './log-desk.ts'
import { type MemberRecord, readMemberRecords } from './members.ts'
import { readPositions } from './positions.ts'
import { isTopic } from './topics.ts'

/**
 * The extra socketpair between a worker and its primary. Cluster IPC carries control only: bus traffic on it would stand
 * in front of the connections that the primary hands over.
 */
export const CHANNEL_FD = 4
const ANNOUNCEMENT = 'AS_ONE_CHANNEL'

/** What a worker may ask its primary to keep for it. */
const MAX_QUEUE_BYTES = 64 << 20
/** A primary that has announced a channel and does not answer on it for this long is not going to. */
const WELCOME_DEADLINE_MS = 2_000

/** Whoever ends the channel waits this long for the other end to have read everything. */
const LEAVE_DEADLINE_MS = 1_000

/** What the primary tells a worker before any user code runs, in one environment variable. */
export interface Announcement {
  readonly nonce: string
  readonly index: number
  readonly name: string
  readonly namespace: string
  /** URL of the Redis, undefined when the primary was given options or a client. */
  readonly redis: string | undefined
  /** Same for two processes with the same Redis. */
  readonly redisId: string
}

export function announcementEnv(announcement: Announcement): Record<string, string> {
  return { [ANNOUNCEMENT]: JSON.stringify(announcement) }
}

/** A worker's end, opened by the agent and used by the first bus with the primary's namespace and Redis. */
export interface AnnouncedChannel {
  readonly announcement: Announcement
  /** Undefined once a bus has taken it. */
  socket: Socket | undefined
}

/** On globalThis, since the agent and the app may load two copies of this package. */
const AGENT_SLOT: unique symbol = Symbol.for('as-one.channel.1') as never
type AgentGlobal = { [AGENT_SLOT]?: AnnouncedChannel }

/**
 * Opens the announced channel and removes the announcement, so that neither user code nor a child process sees it.
 * Main thread only: the preload runs again in every worker thread, where opening the fd would steal frames.
 */
export function openAnnouncedChannel(env: NodeJS.ProcessEnv): AnnouncedChannel | undefined {
  const text = env[ANNOUNCEMENT]
  if (text === undefined || !isMainThread) return announcedChannel()
  delete env[ANNOUNCEMENT]
  let announcement: Announcement
  let socket: Socket
  try {
    announcement = JSON.parse(text) as Announcement
    if (typeof announcement?.nonce !== 'string') return announcedChannel()
    socket = new Socket({ fd: CHANNEL_FD, readable: true, writable: true })
  } catch {
    return announcedChannel() // not from our primary, or for a process between it and us: there is no channel here
  }
  socket.on('error', () => {}) // 'close' follows and says it
  socket.unref() // a worker ends when its app ends, not when the bus does
  const channel: AnnouncedChannel = { announcement, socket }
  ;(globalThis as AgentGlobal)[AGENT_SLOT] = channel
  return channel
}

export function announcedChannel(): AnnouncedChannel | undefined {
  return (globalThis as AgentGlobal)[AGENT_SLOT]
}

/** Takes the channel for a bus, once, if it leads to the hub that this bus would open itself. */
export function takeChannel(
  namespace: string,
  redisId: string,
): { socket: Socket; announcement: Announcement } | undefined {
  const channel = announcedChannel()
  if (!channel?.socket || channel.socket.destroyed) return undefined
  const { announcement, socket } = channel
  if (announcement.namespace !== namespace || announcement.redisId !== redisId) return undefined
  channel.socket = undefined
  return { socket, announcement }
}

/**
 * Joins the primary's hub over the channel.
 *
 * @throws SharedStateError `ERR_AS_ONE_CHANNEL` when the primary refuses, closes or does not answer; the caller becomes its own hub
 */
export function joinOverChannel(
  { socket, announcement }: { socket: Socket; announcement: Announcement },
  member: MemberRecord,
  port: HubPort,
  onLost: (reason: string, hub: string | undefined) => void,
  queue: { queueBytes?: number; overflow?: Overflow } = {},
): Promise<HubSeat> {
  return new Promise((resolve, reject) => {
    const reader = new FrameReader()
    const lane = createLane(socket, {
      end: 'worker',
      onDrop(frame) {
        if (receiptOf(frame) !== 0) port.receipt(receiptOf(frame), { local: 0, remote: 'dropped' })
      },
    })
    let hub: string | undefined
    let joined = false
    let leaving = false
    let over = false
    const end = (reason: string): void => {
      if (over) return
      over = true
      clearTimeout(timer)
      socket.destroy()
      if (leaving) return
      if (joined) onLost(reason, hub)
      else reject(new SharedStateError('ERR_AS_ONE_CHANNEL', `the primary's hub cannot be used: ${reason}`))
    }
    const leave = (): Promise<void> => {
      leaving = true
      return new Promise((left) => {
        const gone = (): void => {
          clearTimeout(stuck)
          left()
        }
        const stuck = setTimeout(() => socket.destroy(), LEAVE_DEADLINE_MS)
        socket.once('close', gone)
        if (socket.destroyed) gone()
        else lane.end()
      })
    }
    const timer = setTimeout(() => end(`no answer in ${WELCOME_DEADLINE_MS} ms`), WELCOME_DEADLINE_MS)
    socket.on('close', () => end('the channel closed'))
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of reader.read(chunk)) {
          if (!joined) {
            const value = decodeControl(frame)
            if (kindOf(frame) === Kind.refuse) return end(String(value?.reason))
            if (kindOf(frame) !== Kind.welcome || value?.nonce !== announcement.nonce)
              return end('it answered the hello with something else')
            joined = true
            hub = typeof value.hub === 'string' ? value.hub : undefined
            clearTimeout(timer)
            resolve({
              send(sent) {
                lane.push(sent)
                return true // what is dropped has been reported by onDrop
              },
              note: (positions) => lane.write(encodeControl(Kind.positions, positions)),
              append: (request) => lane.offer(encodeControl(Kind.append, request)),
              replay: (request) => lane.write(encodeControl(Kind.replay, request)),
              track: (everyMs) => lane.write(encodeControl(Kind.track, { everyMs })),
              leave,
            })
          } else if (!over) hand(frame, port)
        }
      } catch (error) {
        end(messageOf(error))
      }
    })
    socket.write(encodeControl(Kind.hello, { ...announcement, redis: undefined, member, ...queue }))
  })
}

function hand(frame: Buffer, port: HubPort): void {
  const kind = kindOf(frame)
  if (kind === Kind.messages) {
    port.deliver(frame)
    return
  }
  const value = decodeControl(frame)
  if (kind === Kind.refuse) throw new BadFrame(`refused: ${String(value?.reason)}`)
  if (value === undefined) throw new BadFrame(`a frame of kind ${kind} without content`)
  if (kind === Kind.members) port.members(readMemberRecords(value.members))
  else if (kind === Kind.remote)
    port.remote(
      value.up === true,
      typeof value.reason === 'string' ? value.reason : undefined,
      value.isUnanswered === true,
    )
  else if (kind === Kind.positions) port.positions(readPositions(value))
  else if (kind === Kind.log || kind === Kind.page) {
    const page = readLogPage(value)
    if (page) port.log(page, () => frame)
  } else if (kind === Kind.cache) {
    const news = readCacheNews(value)
    if (news) port.cacheNews(news, () => frame)
  } else if (kind === Kind.receipt) port.receipt(Number(value.id), value.receipt as Receipt)
  else throw new BadFrame(`a hub does not send frames of kind ${kind}`)
}

/**
 * The primary's end: lets one worker join the hub over its socket. What does not speak our protocol costs that worker
 * its channel, with a reason, and nobody else anything.
 */
export function serveChannel(socket: Socket, hub: Hub, expected: Announcement): void {
  const reader = new FrameReader()
  let seat: HubSeat | undefined
  const refuse = (reason: string): void => {
    if (channels.bus.hasSubscribers)
      channels.bus.publish({ event: 'channel-closed', index: expected.index, reason })
    socket.removeListener('data', onData)
    socket.resume()
    void seat?.leave()
    socket.end(encodeControl(Kind.refuse, { reason }))
    setTimeout(() => socket.destroy(), LEAVE_DEADLINE_MS).unref() // should the worker not hang up
  }
  const onData = (chunk: Buffer): void => {
    try {
      for (const frame of reader.read(chunk)) {
        if (seat) {
          take(seat, frame)
        } else {
          seat = welcome(socket, hub, frame, expected)
        }
      }
    } catch (error) {
      refuse(messageOf(error))
    }
  }
  socket.on('error', () => {}) // ECONNRESET when a worker dies; 'close' follows
  socket.on('close', () => void seat?.leave())
  socket.on('data', onData)
}

function take(seat: HubSeat, frame: Buffer): void {
  const kind = kindOf(frame)
  if (kind === Kind.messages) {
    seat.send(frame)
    return
  }
  const value = decodeControl(frame)
  if (value === undefined) throw new BadFrame(`a frame of kind ${kind} without content`)
  if (kind === Kind.track && typeof value.everyMs === 'number') seat.track(value.everyMs)
  else if (kind === Kind.positions) seat.note(readPositions(value))
  else if (kind === Kind.append && isAppend(value)) seat.append(value)
  else if (kind === Kind.replay && isTopic(value.topic) && isLogId(value.from))
    seat.replay({ topic: value.topic, from: value.from })
  else throw new BadFrame(`a worker does not send frames of kind ${kind}`)
}

function isLogId(from: unknown): from is string | undefined {
  return from === undefined || (typeof from === 'string' && LOG_ID.test(from))
}

function isAppend(value: unknown): value is AppendRequest {
  const { topic, publisher, maxLen, receipt, first, entries } = value as Record<keyof AppendRequest, unknown>
  const numbers = [maxLen, receipt, first]
  return (
    isTopic(topic) &&
    typeof publisher === 'string' &&
    numbers.every(Number.isSafeInteger) &&
    Array.isArray(entries) &&
    entries.every((entry) => typeof entry === 'string')
  )
}

function welcome(socket: Socket, hub: Hub, frame: Buffer, expected: Announcement): HubSeat {
  const hello = decodeControl(frame)
  if (kindOf(frame) !== Kind.hello || hello === undefined) throw new BadFrame('the first frame is no hello')
  if (!sameText(String(hello.nonce), expected.nonce)) throw new BadFrame('the hello has the wrong nonce')
  if (hello.namespace !== expected.namespace || hello.redisId !== expected.redisId)
    throw new BadFrame('another namespace or Redis')
  const [member] = readMemberRecords([hello.member])
  if (!member) throw new BadFrame('the hello names no member')
  const lane = createLane(socket, { end: 'primary', ...queueOf(hello) })
  socket.write(encodeControl(Kind.welcome, { nonce: expected.nonce, hub: hub.id }))
  return hub.join(
    { ...member, index: expected.index },
    {
      id: member.id,
      deliver: lane.push,
      members: (members) => lane.tell(Kind.members, { members }),
      remote: (up, reason, isUnanswered) => lane.tell(Kind.remote, { up, reason, isUnanswered }),
      receipt: (id, receipt) => lane.write(encodeControl(Kind.receipt, { id, receipt })),
      positions: (positions) => lane.write(encodeControl(Kind.positions, positions)),
      log: (_page, frame) => void lane.offer(frame()),
      cacheNews: (_news, newsFrame) => lane.offer(newsFrame()),
    },
  )
}

/** What the worker wants kept for it while it does not read; it is the primary's memory, so there is a limit. */
function queueOf({ queueBytes, overflow }: Readonly<Record<string, unknown>>): {
  maxBytes?: number
  overflow?: Overflow
} {
  const isSize = typeof queueBytes === 'number' && queueBytes > 0
  return {
    ...(isSize ? { maxBytes: Math.min(queueBytes, MAX_QUEUE_BYTES) } : {}),
    ...(overflow === 'drop-newest' ? { overflow } : {}),
  }
}

function sameText(a: string, b: string): boolean {
  const left = Buffer.from(a)
  const right = Buffer.from(b)
  return left.length === right.length && timingSafeEqual(left, right)
}
