import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Bus } from '../../src/bus/index.ts'
import { Revocations, type Whereabouts } from '../../src/session/revocations.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

/** One worker that holds something open for session 'a', with Redis' answers and the bus's words in the test's hand. */
function holder() {
  const places: Record<string, Whereabouts> = { a: 'here' }
  const ended: string[] = []
  let hear: (message: unknown) => void = () => {}
  const bus = {
    subscribe(_topic: string, onMessage: typeof hear) {
      hear = onMessage
      return { ready: Promise.resolve(), unsubscribe() {} }
    },
    on: () => () => {},
  } as unknown as Bus
  const where = async (ids: readonly string[]) => ids.map((id) => places[id] ?? 'gone')
  const revocations = new Revocations({ bus, where, everyMs: 1_000 })
  const release = revocations.hold('a', ({ id, reason }) => void ended.push(`${id} ${reason}`))
  return { places, ended, hear: (message: unknown) => hear(message), release, revocations }
}

test('looking between a rotation without grace and its word: what is held open follows all the same', async () => {
  const { places, ended, hear, revocations } = holder()
  await vi.advanceTimersByTimeAsync(900)
  delete places.a
  places.b = 'here'
  await vi.advanceTimersByTimeAsync(150) // has looked, and found nothing
  hear({ moved: [['a', 'b']] })
  await vi.advanceTimersByTimeAsync(60_000)
  expect(ended).toEqual([])
  delete places.b
  await vi.advanceTimersByTimeAsync(2_000)
  expect(ended, 'a second after the next look').toEqual(['b expired'])
  revocations.close()
})

test('what is released, or ended by a word, in the second after the look is not ended again', async () => {
  const [one, two] = [holder(), holder()]
  await vi.advanceTimersByTimeAsync(900)
  for (const { places } of [one, two]) delete places.a
  await vi.advanceTimersByTimeAsync(600)
  one.release()
  two.hear({ ended: [{ id: 'a', reason: 'destroyed' }] })
  await vi.advanceTimersByTimeAsync(10_000)
  expect([one.ended, two.ended]).toEqual([[], ['a destroyed']])
  expect(vi.getTimerCount(), 'nothing is looked at any more').toBe(0)
})
