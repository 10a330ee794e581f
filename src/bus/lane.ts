import type { Socket } from 'node:net'
import { channels } from '../core/channels.ts'
import { encodeControl, isInternal, Kind, lastSequenceOf, Stream, streamKeyOf, streamOf } from './frame.ts'

/** Which messages go when a reader is too far behind; it gets a `gap` for them either way. */
export type Overflow = 'drop-oldest' | 'drop-newest'

export const DEFAULT_QUEUE_BYTES: number = 8 << 20
/** What has been given to the socket cannot be taken back, so most of a backlog waits outside of it. */
const MAX_SOCKET_BYTES = 1 << 20
const COMPACT_AFTER = 1_024
/** What a waiting frame takes beside its bytes. */
const ENTRY_BYTES = 200
/** Larger ones would leave holes in Node's pool of 8 KiB. */
const POOLED_BYTES = 1 << 10
/**
 * Waking a reader costs more than what it reads, so messages that follow within this time of a write share the next one …
 * The first after a pause goes at once.
 */
const SHARE_MS = 2
/** … unless there are that many. */
const SHARE_BYTES = 64 << 10

export interface LaneOptions {
  /** Default 8 MiB. */
  maxBytes?: number
  /** Default 'drop-oldest'. */
  overflow?: Overflow
  end: 'primary' | 'worker'
  /** Told of every frame of messages that was dropped. */
  onDrop?: (frame: Buffer) => void
}

/** One direction of a channel: a reader that does not read costs the writer at most `maxBytes`, and is told what it missed. */
export interface Lane {
  /** A frame of messages: takes part in the overflow policy. False when it was dropped at once. */
  push(frame: Buffer): boolean
  /** A frame whose sender copes with a no: false when there is no room. */
  offer(frame: Buffer): boolean
  /** Word that must arrive; of those of the same kind that still wait, only the latest. */
  tell(kind: number, value: unknown): void
  /** As `tell`, each of them. */
  write(frame: Buffer): void
  /** Hands over all that waits and ends the socket behind it. */
  end(): void
}

interface Entry {
  frame: Buffer | undefined
  readonly droppable: boolean
}

export function createLane(
  socket: Socket,
  { maxBytes = DEFAULT_QUEUE_BYTES, overflow = 'drop-oldest', end, onDrop }: LaneOptions,
): Lane {
  const socketBytes = Math.min(MAX_SOCKET_BYTES, maxBytes >> 1)
  let queue: Entry[] = []
  let queuedBytes = 0
  /** Index of the first entry that may still be dropped. */
  let oldest = 0
  /** In the primary alone, whose loop nobody blocks, and not where somebody waits for an answer. */
  const isPatient = (frame: Buffer): boolean =>
    end === 'primary' && streamOf(frame) !== Stream.direct && !isInternal(frame)
  /** The latest of each kind that `tell` has queued. */
  const latest = new Map<number, Entry>()
  /** Last sequence number by stream of what was dropped and not yet reported. */
  const lost = new Map<string, number>()
  /** Something was refused since the last report; its sender is told no, its reader learns of it here. */
  let refused = false

  const isOpen = (): boolean => !(socket.writableEnded || socket.destroyed)
  const isClear = (): boolean => queue.length === 0 && socket.writableLength < socketBytes
  const hasRoom = (frame: Buffer): boolean => queuedBytes + socket.writableLength + costOf(frame) <= maxBytes

  let wroteAt = Number.NEGATIVE_INFINITY
  let ending = false
  let sharing: NodeJS.Timeout | undefined

  function uncork(): void {
    ending = false
    clearTimeout(sharing)
    sharing = undefined
    wroteAt = performance.now()
    socket.uncork()
  }

  /** At most one write to the kernel per tick; `patient` leaves it time to be shared. */
  function writeNow(frame: Buffer, patient = false): void {
    if (socket.writableCorked === 0) socket.cork()
    socket.write(frame)
    if (ending) return
    if (patient && socket.writableLength < SHARE_BYTES) {
      if (sharing) return
      if (performance.now() - wroteAt < SHARE_MS) {
        sharing = setTimeout(uncork, SHARE_MS)
        return
      }
    }
    ending = true
    process.nextTick(uncork)
  }

  function enqueue(given: Buffer, droppable: boolean): Entry {
    const frame = compacted(given, 1)
    const entry = { frame, droppable }
    queue.push(entry)
    queuedBytes += costOf(frame)
    return entry
  }

  function drop(frame: Buffer): void {
    lost.set(streamKeyOf(frame), lastSequenceOf(frame))
    if (channels.bus.hasSubscribers)
      channels.bus.publish({
        event: 'channel-overflow',
        end,
        bytes: frame.length,
        queued: queuedBytes + socket.writableLength,
      })
    onDrop?.(frame)
  }

  function dropOldest(): boolean {
    for (; oldest < queue.length; oldest++) {
      const entry = queue[oldest] as Entry
      if (!entry.droppable || !entry.frame) continue
      const { frame } = entry
      queuedBytes -= costOf(frame)
      entry.frame = undefined
      oldest++
      drop(frame)
      if (oldest > COMPACT_AFTER && oldest > queue.length >> 1) compact()
      return true
    }
    return false
  }

  function compact(): void {
    queue = queue.filter(({ frame }) => frame !== undefined)
    oldest = 0
  }

  function notice(): Buffer | undefined {
    if (lost.size === 0 && !refused) return undefined
    refused = false
    const frame = encodeControl(Kind.positions, {
      at: [...lost],
      cause: end === 'primary' ? 'overflow' : 'dropped',
    })
    lost.clear()
    return frame
  }

  /** The reader has read: what waited goes on, and what was dropped is reported where it is missing. */
  function pump(upTo: number): void {
    if (!isOpen()) return
    let at = 0
    for (; at < queue.length && socket.writableLength < upTo; at++) {
      const { frame, droppable } = queue[at] as Entry
      if (!frame) continue
      if (droppable && overflow === 'drop-oldest') {
        const missing = notice()
        if (missing) writeNow(missing)
      }
      queuedBytes -= costOf(frame)
      writeNow(frame)
    }
    if (at >= queue.length) {
      queue = []
      latest.clear()
      const missing = notice()
      if (missing) writeNow(missing)
    } else {
      for (const [kind, entry] of latest) if (queue.indexOf(entry) < at) latest.delete(kind)
      queue = queue.slice(at)
    }
    oldest = Math.max(0, oldest - at)
  }
  socket.on('drain', () => pump(socketBytes))

  function write(frame: Buffer): void {
    if (!isOpen()) return
    if (isClear()) writeNow(frame)
    else enqueue(frame, false)
  }

  return {
    push(frame) {
      if (!isOpen()) return false
      if (isClear() && lost.size === 0 && hasRoom(frame)) {
        writeNow(socket.writableNeedDrain ? compacted(frame, 8) : frame, isPatient(frame))
        return true
      }
      if (overflow === 'drop-oldest') while (!hasRoom(frame) && dropOldest());
      if (!hasRoom(frame)) {
        drop(frame)
        if (isClear()) pump(socketBytes) // nothing stands before the report, and no 'drain' will come
        return false
      }
      const missing = overflow === 'drop-newest' ? notice() : undefined
      if (missing) enqueue(missing, false)
      enqueue(frame, true)
      if (socket.writableLength === 0) pump(socketBytes)
      return true
    },
    offer(frame) {
      if (!isOpen()) return false
      refused ||= !hasRoom(frame)
      if (!hasRoom(frame)) return false
      write(frame)
      return true
    },
    tell(kind, value) {
      if (!isOpen()) return
      const frame = encodeControl(kind, value)
      const waiting = latest.get(kind)
      if (waiting?.frame) {
        queuedBytes -= costOf(waiting.frame)
        waiting.frame = undefined
      }
      if (isClear()) writeNow(frame)
      else latest.set(kind, enqueue(frame, false))
    },
    write,
    end() {
      pump(Number.POSITIVE_INFINITY)
      socket.end()
    },
  }
}

const costOf = (frame: Buffer): number => frame.length + ENTRY_BYTES

/** A frame is a view into all that was read with it, which would stay in memory as long as the frame waits. */
function compacted(frame: Buffer, mostTimes: number): Buffer {
  if (frame.buffer.byteLength <= mostTimes * frame.length) return frame
  if (frame.length < POOLED_BYTES) return Buffer.from(frame)
  const copy = Buffer.allocUnsafeSlow(frame.length)
  frame.copy(copy)
  return copy
}
