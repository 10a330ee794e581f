import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test, vi } from 'vitest'
import { DeadlineError, Deadlines } from '../../src/redis/deadlines.ts'

const after = <T>(ms: number, value: T): (() => Promise<T>) => {
  return () => sleep(ms, value, { ref: false })
}

test('answers in time pass, late ones are given up, in whatever order they come', async () => {
  const deadlines = new Deadlines(100)
  // The late ones later than any pause of a busy machine, which is not counted as time.
  const waits = [30_000, 5, 40_000, 20, 0].map((ms) => deadlines.within(after(ms, ms)))
  const outcomes = await Promise.allSettled(waits)
  expect(
    outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : outcome.reason)),
  ).toEqual([expect.any(DeadlineError), 5, expect.any(DeadlineError), 20, 0])
})

test('one that begins later has its whole time', async () => {
  const deadlines = new Deadlines(50)
  const first = deadlines.within(() => new Promise(() => {})).catch(() => performance.now())
  await sleep(30)
  const startedAt = performance.now()
  await expect(deadlines.within(() => new Promise(() => {}))).rejects.toThrow('no answer within 50 ms')
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(49)
  expect(await first).toBeLessThan(performance.now())
})

test('errors pass as they are, thrown or rejected; a late rejection is observed', async () => {
  const deadlines = new Deadlines(20)
  const unhandled = vi.fn()
  process.once('unhandledRejection', unhandled)
  const thrown = (): never => {
    throw new Error('at once')
  }
  await expect(deadlines.within(thrown)).rejects.toThrow('at once')
  await expect(deadlines.within(() => Promise.reject(new Error('soon')))).rejects.toThrow('soon')
  let failLate!: (error: Error) => void
  const late = new Promise((_resolve, reject) => {
    failLate = reject
  })
  await expect(deadlines.within(() => late)).rejects.toThrow(DeadlineError)
  failLate(new Error('late'))
  await sleep(10)
  expect(unhandled).not.toHaveBeenCalled()
  process.off('unhandledRejection', unhandled)
})

test('an answer that had come while the event loop stood still counts', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = connect((server.address() as { port: number }).port, '127.0.0.1')
  const [[peer]] = (await Promise.all([once(server, 'connection'), once(socket, 'connect')])) as [
    [Socket],
    unknown,
  ]
  const deadlines = new Deadlines(100)
  for (let round = 0; round < 3; round++) {
    const answer = deadlines.within(() => once(socket, 'data'))
    await sleep(round) // at different points of the wait
    peer.write('pong')
    const end = performance.now() + 250
    while (performance.now() < end);
    expect(String(await answer)).toBe('pong')
  }
  socket.destroy()
  server.close()
})

const stall = (ms: number): void => {
  const end = performance.now() + ms
  while (performance.now() < end);
}

test('a stalled event loop is not taken for a late answer: what comes soon after it counts', async () => {
  const deadlines = new Deadlines(100)
  const answer = deadlines.within(async () => {
    await sleep(1)
    stall(300) // before the question could be sent
    return sleep(20, 'pong')
  })
  expect(await answer).toBe('pong')
})

test('an event loop that is always late gives up all the same, after a few turns', async () => {
  const deadlines = new Deadlines(100)
  let turns = 0
  const busy = setInterval(() => {
    turns += 1
    stall(60)
  }, 1)
  await expect(deadlines.within(() => new Promise(() => {}))).rejects.toThrow(DeadlineError)
  clearInterval(busy)
  expect(turns).toBeGreaterThan(2)
  expect(turns).toBeLessThan(15)
})
