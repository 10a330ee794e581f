import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { onTestFinished } from 'vitest'
import type { AnnouncedChannel, Announcement } from '../../src/bus/channel.ts'
import { encodeMessages, FrameReader } from '../../src/bus/frame.ts'
import { tempDir } from '../helpers/cleanup.ts'

export const announcement: Announcement = {
  nonce: 'f00d'.repeat(8),
  index: 3,
  name: 'app',
  namespace: 'ns',
  redis: undefined,
  redisId: 'redis-id',
}

/** Both ends of a connection like the one between a worker and its primary. */
export async function socketPair(): Promise<{ worker: Socket; primary: Socket }> {
  const path = join(tempDir(), 'channel.sock')
  const server = createServer().listen(path)
  await once(server, 'listening')
  const worker = connect(path)
  const [primary] = (await once(server, 'connection')) as [Socket]
  await (worker.connecting ? once(worker, 'connect') : undefined)
  server.close()
  for (const socket of [worker, primary]) socket.on('error', () => {})
  onTestFinished(() => {
    worker.destroy()
    primary.destroy()
  })
  return { worker, primary }
}

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** Of the memory of buffers, what is still in use. */
export async function liveBytes(): Promise<number> {
  for (let time = 0; time < 3; time++) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 20)) // buffers are freed by another thread
  }
  return process.memoryUsage().arrayBuffers
}

/** Every frame that arrives from now on. */
export function framesFrom(socket: Socket): Buffer[] {
  const frames: Buffer[] = []
  const reader = new FrameReader()
  socket.on('data', (chunk: Buffer) =>
    frames.push(...Array.from(reader.read(chunk), (frame) => Buffer.from(frame))),
  )
  return frames
}

export function messages(...payloads: unknown[]): Buffer {
  const body = JSON.stringify(payloads.flatMap((payload) => ['news', 0, payload]))
  const publisher = Buffer.from('0123456789abcdef', 'hex')
  return encodeMessages(body, {
    receipt: 0,
    count: payloads.length,
    publisher,
    firstSequence: 1,
    sentAt: 0,
    topics: ['news'],
  })
}

/** One message with its sequence number, which is its payload too. */
export function messageAt(sequence: number, ballast: string): Buffer {
  const body = JSON.stringify(['news', 0, sequence, 'ballast', 0, ballast])
  const publisher = Buffer.from('0123456789abcdef', 'hex')
  return encodeMessages(body, {
    receipt: 0,
    count: 1,
    publisher,
    firstSequence: sequence,
    sentAt: 0,
    topics: [],
  })
}

/** As the agent does in a worker: the next bus with this namespace and Redis takes the channel. */
export function announce(announced: Announcement, socket: Socket): void {
  const slot = globalThis as unknown as Record<symbol, AnnouncedChannel | undefined>
  const key = Symbol.for('as-one.channel.1')
  slot[key] = { announcement: announced, socket }
  onTestFinished(() => {
    slot[key] = undefined
  })
}
