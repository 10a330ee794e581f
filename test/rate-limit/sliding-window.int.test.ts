import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LocalWindow } from '../../src/rate-limit/local.ts'
import { OPS } from '../../src/rate-limit/lua.ts'
import { SLIDING_WINDOW, slidingWindow } from '../../src/rate-limit/sliding-window.ts'
import { fcParams } from '../helpers/random.ts'
import { sharedRedisClient, testNamespace } from '../helpers/redis.ts'

/** The script with a clock of the test's own, in microseconds, by which nothing expires. */
const SCRIPT = SLIDING_WINDOW.lua
  .replace("redis.call('TIME')", '{ math.floor(ARGV[8] / 1000000), ARGV[8] % 1000000 }')
  .replace("'PX', ttl + 1", "'PX', 60000")
const redis = sharedRedisClient()
const key = `${testNamespace()}:window`

async function ask(
  limit: number,
  perMs: number,
  cost: number,
  atMs: number,
  charge = true,
): Promise<number[]> {
  const args = [limit, perMs * 100, cost, charge ? OPS.charge : OPS.look, 0, 0, 0, atMs * 1_000]
  const reply = (await redis.eval(SCRIPT, 1, key, ...args)) as number[] | string
  if (typeof reply !== 'string') return reply.slice(0, 4)
  const [remaining, reset] = reply.split(' ').map(Number)
  return [1, remaining as number, 0, reset as number]
}

const start = 1_800_000_000_000

const steps = fc.array(
  fc.record({
    pause: fc.oneof(fc.integer({ min: 0, max: 30 }), fc.integer({ min: 0, max: 400 }), fc.constant(5_000)),
    cost: fc.integer({ min: 1, max: 12 }),
  }),
  { minLength: 1, maxLength: 60 },
)

test('at any times and costs: never above the limit in any window, and the wait it names is exact', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 30 }),
      fc.integer({ min: 1, max: 1_000 }),
      steps,
      async (limit, perMs, sequence) => {
        await redis.del(key)
        let now = start
        const local = new LocalWindow(perMs, () => now)
        const admitted: { at: number; cost: number }[] = []
        for (const { pause, cost: wanted } of sequence) {
          now += pause
          const cost = Math.min(wanted, limit)
          const looked = await ask(limit, perMs, cost, now, false)
          const [fits, remaining, retry, reset] = (await ask(limit, perMs, cost, now)) as [
            number,
            number,
            number,
            number,
          ]
          expect(looked[0]).toBe(fits)
          expect(looked[2]).toBe(retry)
          // The one in memory decides alike.
          expect(local.decide('key', limit, { cost, charge: true })).toEqual({
            allowed: fits === 1,
            remaining,
            retryAfterMs: retry,
            resetMs: reset,
          })
          if (fits === 1) admitted.push({ at: now, cost })
          else {
            expect(retry).toBeGreaterThan(0)
            expect((await ask(limit, perMs, cost, now + retry, false))[0]).toBe(1)
            expect((await ask(limit, perMs, cost, now + retry - 1, false))[0]).toBe(0)
          }
          const inWindow = admitted.filter(({ at }) => at >= now - perMs)
          expect(inWindow.reduce((sum, each) => sum + each.cost, 0)).toBeLessThanOrEqual(limit)
          expect((await ask(limit, perMs, 1, now + reset, false))[1]).toBe(limit)
        }
      },
    ),
    fcParams({ numRuns: 40 }),
  )
}, 120_000)

test('capacity comes back a tenth of the window after the window, at the latest', async () => {
  await redis.del(key)
  const at = start + 55
  expect((await ask(5, 1_000, 5, at))[0]).toBe(1)
  expect((await ask(5, 1_000, 1, at + 1_000))[0]).toBe(0)
  expect((await ask(5, 1_000, 1, at + 1_100))[0]).toBe(1)
})

test('a server clock that goes back a little frees nothing; by more than a window it locks nobody out', async () => {
  await redis.del(key)
  expect((await ask(5, 1_000, 5, start))[0]).toBe(1)
  expect((await ask(5, 1_000, 1, start - 900))[0]).toBe(0)
  expect((await ask(5, 1_000, 1, start - 3_600_000))[0]).toBe(1)
})

test.each([
  'nonsense',
  '',
  '\xff'.repeat(56),
  '\xff'.repeat(64),
  `\x7f\xf0${'\0'.repeat(54)}`, // infinity
  `\x7f\xf8${'\x01'.repeat(54)}`, // not a number
  `\x3f\xd3\x33${'\x01'.repeat(53)}`, // a fraction
])('a value that is none of ours is counted as nothing: %j', async (forged) => {
  await redis.set(key, Buffer.from(forged, 'latin1'))
  expect(await ask(5, 1_000, 1, start)).toEqual([1, 4, 0, 1_100])
  expect(await redis.pttl(key)).toBeGreaterThan(0)
})

test('the shortest and the longest window, the smallest and the largest limit', async () => {
  for (const perMs of [1, 31 * 86_400_000]) {
    for (const limit of [1, 1_000_000_000]) {
      const policy = { name: 'edges', limit, perMs, algorithm: 'sliding-window' } as const
      const own = `${key}:${perMs}:${limit}`
      const first = await slidingWindow.charge(redis, own, policy, { cost: limit, limit }, 0)
      expect(first).toMatchObject({ allowed: true, remaining: 0, retryAfterMs: 0 })
      expect(first.resetMs).toBeLessThanOrEqual(Math.ceil(perMs * 1.1))
      if (perMs === 1) continue
      expect(await slidingWindow.charge(redis, own, policy, { cost: 1, limit }, 0)).toMatchObject({
        allowed: false,
        remaining: 0,
      })
      expect(await redis.pttl(own)).toBeGreaterThan(perMs)
    }
  }
})
