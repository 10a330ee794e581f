import { beforeAll, describe, expect, test } from 'vitest'
import type { SharedContext } from '../../src/context.ts'
import {
  createRateLimiter,
  type RateLimitAlgorithm,
  type RateLimiter,
  type RateLimiterOptions,
} from '../../src/rate-limit/index.ts'
import { until } from '../helpers/until.ts'
import { ttls, worker } from '../rate-limit/app.ts'

/** On a busy machine Redis does not always answer in time; what is tested here is what it answers. */
class Hiccup extends Error {}

/** A limiter without a word of its own: no decision but Redis'. */
function onlyRedis(limiter: RateLimiter): RateLimiter {
  const insist = async (deciding: ReturnType<RateLimiter['consume']>): ReturnType<RateLimiter['consume']> => {
    const decision = await deciding
    if (decision.source !== 'redis' && decision.source !== 'known')
      throw new Hiccup('Redis did not answer in time')
    return decision
  }
  return {
    ...limiter,
    consume: (key, options) => insist(limiter.consume(key, options)),
    peek: (key, options) => insist(limiter.peek(key, options)),
  }
}

/** The machine may have stood still between two calls that belong together. */
function expectWithin(ms: number, began: number): void {
  if (performance.now() - began > ms) throw new Hiccup('the machine was too slow for a window this short')
}

/** A test that starts over after a hiccup, with limiters of another name. */
function steadily(name: string, attempt: () => Promise<void>): void {
  test(name, async () => {
    for (let left = 10; ; left--) {
      try {
        return await attempt()
      } catch (error) {
        if (!(error instanceof Hiccup) || left === 0) throw error
        await new Promise((resolve) => setTimeout(resolve, 300))
      }
    }
  })
}

/** What every algorithm keeps to, seen from two processes' worth of connections, on whatever Redis `open` gives. */
export function rateLimitSuite(
  where: string,
  algorithm: RateLimitAlgorithm,
  open: () => Promise<{ url: string; namespace(): string }>,
): void {
  describe(`${algorithm} on ${where}`, () => {
    let one: SharedContext
    let two: SharedContext
    let names = 0

    beforeAll(async () => {
      const { url, namespace } = await open()
      const shared = namespace()
      one = worker(url, shared)
      two = worker(url, shared)
      await Promise.all([one.redis.ready(), two.redis.ready()])
    })

    /** The same limiter in two processes. */
    const limiters = (
      limit: number,
      per: number | `${number}${'s' | 'm' | 'h'}`,
      more: Partial<RateLimiterOptions> = {},
    ) => {
      const options = { name: `n${names++}`, limit, per, algorithm, ...more }
      return [onlyRedis(createRateLimiter(one, options)), onlyRedis(createRateLimiter(two, options))] as const
    }

    steadily('200 at once over two connections: exactly the limit is admitted', async () => {
      const [a, b] = limiters(50, '1h')
      const decisions = await Promise.all(
        Array.from({ length: 200 }, (_, index) => (index % 2 ? a : b).consume('client')),
      )
      const admitted = decisions.filter(({ allowed }) => allowed)
      expect(admitted).toHaveLength(50)
      expect(new Set(admitted.map(({ remaining }) => remaining)).size).toBe(50)
      for (const { allowed, remaining, retryAfterMs, resetMs } of decisions) {
        expect(resetMs).toBeGreaterThan(0)
        expect(resetMs).toBeLessThanOrEqual(3_600_000 * 1.1)
        expect(allowed ? retryAfterMs === 0 : retryAfterMs > 0 && remaining === 0).toBe(true)
      }
    })

    steadily('keys do not touch each other', async () => {
      const [a] = limiters(1, '1h')
      const keys: (string | number)[] = [
        'a',
        'b',
        '{a}',
        'a}',
        '}a{',
        '%7D',
        '',
        ' ',
        'a\nb',
        'a\r\nb',
        'é',
        '€',
        '\0',
        7,
        '#',
        '#a',
      ]
      for (const size of [100, 101, 65_536]) keys.push('x'.repeat(size), `${'x'.repeat(size - 1)}y`)
      for (const key of keys.filter((each) => each !== '')) {
        expect((await a.consume(key)).allowed, String(key).slice(0, 20)).toBe(true)
        expect((await a.consume(key)).allowed, String(key).slice(0, 20)).toBe(false)
      }
      expect((await a.consume('7')).allowed).toBe(false) // a number is its decimal
      for (const key of (await ttls(one)).keys()) expect(key.length).toBeLessThan(250)
    })

    steadily('a refused cost is not charged', async () => {
      const [a, b] = limiters(10, '1h')
      expect(await a.consume('k', { cost: 8 })).toMatchObject({ allowed: true, remaining: 2 })
      expect(await b.consume('k', { cost: 5 })).toMatchObject({ allowed: false, remaining: 2 })
      expect(await a.consume('k', { cost: 3 })).toMatchObject({ allowed: false, remaining: 2 })
      expect(await b.consume('k', { cost: 2 })).toMatchObject({ allowed: true, remaining: 0 })
      expect(await b.consume('k')).toMatchObject({ allowed: false, remaining: 0 })
    })

    steadily('peek tells what consume would say and takes nothing', async () => {
      const [a, b] = limiters(3, '1h')
      expect(await a.peek('k')).toMatchObject({ allowed: true, remaining: 3, resetMs: 0, retryAfterMs: 0 })
      await a.consume('k', { cost: 2 })
      for (let look = 0; look < 3; look++) {
        expect(await b.peek('k')).toMatchObject({ allowed: true, remaining: 1, source: 'redis' })
        expect(await b.peek('k', { cost: 2 })).toMatchObject({ allowed: false, remaining: 1 })
      }
      const { resetMs } = await b.peek('k')
      // GCRA drains as time goes by: two thirds of the limit are two thirds of the hour.
      expect(resetMs).toBeGreaterThan(algorithm === 'gcra' ? 2_390_000 : 3_500_000)
    })

    steadily('reset gives the whole limit back, to all', async () => {
      const [a, b] = limiters(1, '1h')
      await a.consume('k')
      expect((await b.consume('k')).allowed).toBe(false)
      await a.reset('k')
      // b knows of a refusal, until it hears of the reset.
      await until(async () => (await b.consume('k')).allowed, { what: 'b to admit', every: 2 })
      expect((await a.consume('k')).allowed).toBe(false)
      await a.reset('never seen')
    })

    steadily('after the wait it names a request is admitted, not before', async () => {
      const [a] = limiters(2, 400)
      const began = performance.now()
      await a.consume('k', { cost: 2 })
      const askedAt = performance.now()
      const { allowed, retryAfterMs } = await a.consume('k')
      const answeredAt = performance.now()
      expectWithin(100, began)
      expect(allowed).toBe(false)
      // Redis has looked at its clock between question and answer; the same holds for each further one.
      for (let admitted = false; !admitted; ) {
        const sentAt = performance.now()
        admitted = (await a.consume('k')).allowed
        if (admitted) expect(performance.now()).toBeGreaterThan(askedAt + retryAfterMs - 2)
        else expect(sentAt).toBeLessThan(answeredAt + retryAfterMs + 2)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    })

    steadily('windows shorter than a second', async () => {
      const [a] = limiters(1, 30)
      for (let round = 0; round < 3; round++) {
        expect((await a.consume('k')).allowed).toBe(true)
        await new Promise((resolve) => setTimeout(resolve, 40))
      }
    })

    test.each([0, -1, 0.5, 6, Number.NaN, '1', null])(
      'cost %s is a typed error and charges nothing',
      async (cost) => {
        const [a] = limiters(5, '1h')
        await expect(a.consume('k', { cost: cost as number })).rejects.toMatchObject({
          code: 'ERR_AS_ONE_RATE_LIMIT',
          message: expect.stringContaining('cost must be a whole number from 1 to the limit of 5'),
        })
        const whole = async () => (await a.peek('k')).remaining === 5
        await until(whole, { what: 'Redis to say that nothing was charged' })
      },
    )

    test.each([undefined, null, '', Number.NaN, {}, []])('key %s is a typed error', async (key) => {
      const [a] = limiters(5, '1h')
      await expect(a.consume(key as string)).rejects.toMatchObject({
        code: 'ERR_AS_ONE_RATE_LIMIT',
        message: expect.stringContaining('key must be a non-empty string or a number'),
      })
    })

    steadily('refund gives back what a decision has taken, once, and to all', async () => {
      const [a, b] = limiters(3, '1h')
      const first = await a.consume('k')
      const big = await b.consume('k', { cost: 2 })
      expect((await a.consume('k')).allowed).toBe(false)
      expect(await b.refund(big)).toBe(true)
      expect(await b.refund(big)).toBe(false)
      // a knows of a refusal, until it hears that there is room.
      await until(async () => (await a.consume('k', { cost: 2 })).allowed, { what: 'a to admit', every: 2 })
      expect((await b.peek('k')).remaining).toBe(0)
      expect(await a.refund(await a.peek('k'))).toBe(false) // has taken nothing
      expect(await b.refund(first)).toBe(false) // not made by it
      expect(await a.refund(first)).toBe(true)
      // GCRA has drained a little of it by itself, and gives back only the rest.
      await until(async () => (await b.peek('k')).remaining === 1, { what: 'room for one', every: 5 })
      await expect(a.refund({ ...first })).rejects.toMatchObject({ code: 'ERR_AS_ONE_RATE_LIMIT' })
    })

    steadily('a late refund does not reach into the next window', async () => {
      const [a, b] = limiters(2, 200)
      const late = await a.consume('k', { cost: 2 })
      await new Promise((resolve) => setTimeout(resolve, 240))
      const began = performance.now()
      expect((await b.consume('k', { cost: 2 })).allowed).toBe(true)
      await a.refund(late)
      const { remaining, resetMs } = await b.peek('k')
      const last = await b.consume('k', { cost: 2 })
      expectWithin(150, began)
      expect(resetMs).toBeGreaterThan(0)
      // GCRA has drained a little of the second charge by itself.
      expect(remaining).toBeLessThanOrEqual(algorithm === 'gcra' ? 1 : 0)
      expect(last.allowed).toBe(false)
    })

    steadily('penalty takes whether it fits or not', async () => {
      const [a, b] = limiters(5, '1h')
      expect(await a.penalty('k', 3)).toMatchObject({ allowed: true, remaining: 2, source: 'redis' })
      expect(await b.penalty('k', 30)).toMatchObject({ allowed: false, remaining: 0 })
      expect((await a.consume('k')).allowed).toBe(false)
      for (const cost of [0, -1, 1.5, 2e9])
        await expect(a.penalty('k', cost)).rejects.toMatchObject({ code: 'ERR_AS_ONE_RATE_LIMIT' })
    })

    steadily('block refuses for so long, keeps the counts, and reset ends it', async () => {
      const [a, b] = limiters(3, '1h')
      await a.consume('k', { cost: 2 })
      const began = performance.now()
      await b.block('k', 150)
      const { allowed, retryAfterMs, remaining } = await a.consume('k')
      expectWithin(140, began)
      expect([allowed, remaining]).toEqual([false, 0])
      expect(retryAfterMs).toBeGreaterThan(0)
      if (algorithm !== 'fixed-window') {
        expect(retryAfterMs).toBeLessThanOrEqual(150)
        await new Promise((resolve) => setTimeout(resolve, 160))
        expect(await a.consume('k')).toMatchObject({ allowed: true, remaining: 0 })
      }
      await b.block('k', '2h')
      expect((await b.consume('k')).retryAfterMs).toBeGreaterThan(7_100_000)
      await b.reset('k')
      expect(await b.consume('k')).toMatchObject({ allowed: true, remaining: 2 })
      for (const duration of [0, -1, '32d', 'soon', undefined])
        await expect(b.block('k', duration as never)).rejects.toMatchObject({ code: 'ERR_AS_ONE_RATE_LIMIT' })
    })

    steadily('blockFor: who was refused waits, however early it would fit again', async () => {
      const [a, b] = limiters(2, 200, { blockFor: '1h' })
      const began = performance.now()
      await a.consume('k', { cost: 2 })
      const refused = await b.consume('k')
      expectWithin(90, began)
      expect(refused.retryAfterMs).toBeGreaterThan(3_500_000)
      await new Promise((resolve) => setTimeout(resolve, 260))
      expect((await a.consume('k')).allowed).toBe(false)
      expect((await a.peek('k')).retryAfterMs).toBeLessThanOrEqual(3_600_000)
    })

    steadily('a limit told with each call', async () => {
      const [a, b] = limiters(5, '1h')
      expect(await a.consume('k', { cost: 5 })).toMatchObject({ remaining: 0, policy: { limit: 5 } })
      expect((await a.consume('k')).allowed).toBe(false)
      expect(await a.consume('k', { limit: 20 })).toMatchObject({
        allowed: true,
        remaining: 14,
        policy: { limit: 20 },
      })
      expect((await b.consume('k', { limit: 6 })).allowed).toBe(false)
      for (const limit of [0, -1, 0.5, Number.NaN, 1e15, '7', [5, 5]])
        await expect(a.consume('k', { limit: limit as number })).rejects.toMatchObject({
          code: 'ERR_AS_ONE_RATE_LIMIT',
        })
    })

    steadily('what was refused is not asked again before it fits', async () => {
      const [a] = limiters(1, '1h')
      await a.consume('k')
      const refused = await a.consume('k')
      const known = await Promise.all(Array.from({ length: 50 }, () => a.consume('k')))
      expect(refused.source).toBe('redis')
      for (const { source, allowed, retryAfterMs } of known) {
        expect([source, allowed]).toEqual(['known', false])
        expect(retryAfterMs).toBeLessThanOrEqual(refused.retryAfterMs)
        expect(retryAfterMs).toBeGreaterThan(refused.retryAfterMs - 5_000)
      }
      expect(a.stats()).toMatchObject({ allowed: 1, refused: 51, sources: { redis: 2, known: 50 } })
    })

    steadily('a signal ends the wait', async () => {
      const [a] = limiters(1, '1h')
      await expect(a.consume('k', { signal: AbortSignal.abort() })).rejects.toMatchObject({
        code: 'ERR_AS_ONE_ABORTED',
      })
      expect(await a.consume('other', { signal: new AbortController().signal })).toMatchObject({
        allowed: true,
      })
    })

    test('after all this: no key without TTL, and all in one place', async () => {
      const found = await ttls(one)
      expect(found.size).toBeGreaterThan(5)
      for (const [key, ttl] of found) {
        expect(key.startsWith(one.keys.prefix('rate-limit')), key).toBe(true)
        expect(ttl, key).not.toBe(-1)
      }
    })
  })
}
