import type { Redis } from 'ioredis'
import { ioredis } from './ioredis.ts'

/** Smaller messages are cheaper to join than to write piece by piece. */
const JOINED_BYTES = 16 << 10

interface Writable {
  write(data: string | Buffer): unknown
}

/**
 * PUBLISH of several pieces as one message; resolves with how many have got it. Joined first, a large message would be
 * copied twice, by us and by ioredis; here its pieces go into the write as they are, and must not change until it ends.
 */
export function publishPieces(redis: Redis, channel: string, pieces: readonly Buffer[]): Promise<number> {
  let bytes = 0
  for (const piece of pieces) bytes += piece.length
  if (bytes <= JOINED_BYTES) return redis.publish(channel, Buffer.concat(pieces, bytes))
  const command = new (ioredis().Command)('publish', [channel, ''])
  command.toWritable = (stream) => {
    const socket = stream as Writable
    const name = `*3\r\n$7\r\npublish\r\n$${Buffer.byteLength(channel)}\r\n${channel}\r\n`
    socket.write(`${name}$${bytes}\r\n`)
    for (const piece of pieces) socket.write(piece)
    return '\r\n' // which ioredis writes
  }
  return redis.sendCommand(command) as Promise<number>
}
