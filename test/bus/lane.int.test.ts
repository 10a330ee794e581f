import { expect, onTestFinished, test } from 'vitest'
import { framesOf, lastSequenceOf } from '../../src/bus/frame.ts'
import { createLane } from '../../src/bus/lane.ts'
import { channels } from '../../src/core/channels.ts'
import { until } from '../helpers/until.ts'
import { framesFrom, liveBytes, messageAt, socketPair } from './channel-pair.ts'

/** However long that other thread takes to free what nobody uses any more. */
function untilLiveBelow(limit: number): Promise<unknown> {
  return until(async () => (await liveBytes()) < limit, { what: `less than ${limit} bytes to be in use` })
}

/** What the queue says of itself each time it overflows. */
function queuedAtOverflow(): number[] {
  const queued: number[] = []
  const onBus = (event: unknown): void => {
    const told = event as { event: string; queued: number }
    if (told.event === 'channel-overflow') queued.push(told.queued)
  }
  channels.bus.subscribe(onBus)
  onTestFinished(() => void channels.bus.unsubscribe(onBus))
  return queued
}

test.each([
  ['drop-oldest', 100],
  ['drop-oldest', 5_000],
  ['drop-newest', 100],
  ['drop-newest', 5_000],
] as const)(
  'what waits is counted, and never more than the limit (%s, frames of %i bytes)',
  async (overflow, size) => {
    const maxBytes = 2 << 20
    const { worker, primary } = await socketPair()
    worker.pause()
    const queued = queuedAtOverflow()
    const lane = createLane(primary, { end: 'primary', maxBytes, overflow })
    const read = Buffer.concat(
      Array.from({ length: (8 << 20) / size }, (_, at) => messageAt(at + 1, 'x'.repeat(size))),
    )
    const before = await liveBytes()
    for (const frame of framesOf(read)) lane.push(frame)
    expect(Math.max(...queued)).toBeLessThanOrEqual(maxBytes)
    expect(Math.min(...queued)).toBeGreaterThan(maxBytes - 2 * (size + 500))
    await untilLiveBelow(before + maxBytes + (512 << 10))
  },
)

test('a small frame that waits does not keep all that was read with it', async () => {
  const { worker, primary } = await socketPair()
  worker.pause()
  const lane = createLane(primary, { end: 'primary', maxBytes: 2 << 20 })
  const frame = messageAt(1, 'x'.repeat(200))
  const before = await liveBytes()
  for (let at = 1; at <= 4_000; at++) {
    const chunk = Buffer.alloc(64 << 10)
    const length = frame.copy(chunk)
    chunk.writeDoubleLE(at, 32)
    lane.push(chunk.subarray(0, length))
  }
  await untilLiveBelow(before + (8 << 20)) // of 256 MB
})

test('under load frames share their writes, in order; the first after a pause goes at once', async () => {
  const { worker, primary } = await socketPair()
  let reads = 0
  worker.on('data', () => {
    reads += 1
  })
  const frames = framesFrom(worker)
  const lane = createLane(primary, { end: 'primary' })
  const startedAt = performance.now()
  let count = 0
  while (performance.now() - startedAt < 200) {
    lane.push(messageAt(++count, 'x'))
    await new Promise(setImmediate)
  }
  await until(() => frames.length === count, { what: 'all frames' })
  expect(frames.map(lastSequenceOf)).toEqual(Array.from({ length: count }, (_, at) => at + 1))
  // At most one write in 2 ms; on a busy machine there may be fewer frames than that.
  expect(reads).toBeLessThanOrEqual(200 / 2 + 10)
})
