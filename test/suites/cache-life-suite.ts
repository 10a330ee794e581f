import { setTimeout as sleep } from 'node:timers/promises'
import { deserialize, serialize } from 'node:v8'
import type { Cluster, Redis } from 'ioredis'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Cache, CacheEvents, CacheOptions, LoadContext, LoadOptions } from '../../src/cache/index.ts'
import type { Duration } from '../../src/core/duration.ts'
import { openCache, untilCopied, untilOn } from '../cache/open-cache.ts'
import { testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import type { CacheSuiteRedis } from './cache-suite.ts'

const gone = { every: 2, deadline: 2_000 }

/** How entries live, are grouped and replaced, on whatever Redis `open` gives. */
export function cacheLifeSuite(name: string, open: () => Promise<CacheSuiteRedis>): void {
  describe(`cache on ${name}`, () => {
    let redis: CacheSuiteRedis
    let namespace: string
    /** Two processes. */
    let here: Cache
    let there: Cache
    const another = (options?: CacheOptions): Cache => openCache(redis.url, namespace, options)
    const keyOf = (key: string): string => `${namespace}:c:main:${key}`
    const client = (): Redis | Cluster => redis.client
    const untilGone = (cache: Cache, key: string): Promise<unknown> =>
      until(() => cache.peek(key) === undefined, { what: `the copy of ${key} to go`, ...gone })

    beforeAll(async () => {
      redis = await open()
    })
    beforeEach(async () => {
      namespace = testNamespace()
      here = another()
      there = another()
      await untilOn(here, there)
    })

    describe('a tag', () => {
      test('deletes what has it, everywhere, and nothing else', async () => {
        await here.setMany([
          { key: 'a', value: 1, tags: ['odd', 'small'] },
          { key: 'b', value: 2, tags: ['small'] },
          { key: 'c', value: 3 },
        ])
        expect(await there.getOrSet('d', () => 4, { tags: ['small'] })).toBe(4)
        for (const key of ['a', 'b', 'c', 'd']) await untilCopied(there, key)
        await here.deleteByTag('odd')
        await untilGone(there, 'a')
        expect(await there.getMany(['a', 'b', 'c', 'd'])).toEqual([undefined, 2, 3, 4])
        await there.deleteByTag('small', 'of nobody')
        expect(await there.getMany(['a', 'b', 'c', 'd'])).toEqual([undefined, undefined, 3, undefined])
        await untilGone(here, 'b')
        expect(await here.getMany(['a', 'b', 'c', 'd'])).toEqual([undefined, undefined, 3, undefined])
        expect(await here.getOrSet('b', () => 'new', { tags: ['small'] })).toBe('new')
        expect(await there.get('b')).toBe('new')
      })

      test('is one command however much has it, and deletes no key', async () => {
        for (let at = 0; at < 30; at++) await here.set(`k${at}`, at, { tags: ['all'] })
        const before = await client().exists(keyOf('k7'))
        await there.deleteByTag('all')
        expect(await client().exists(keyOf('k7'))).toBe(before)
        for (let at = 0; at < 30; at++) expect(await there.get(`k${at}`)).toBeUndefined()
      })

      test('voids a load that began before it, whoever runs it and whoever waits', async () => {
        for (const deleting of [here, there]) {
          let began!: () => void
          const loading = new Promise<void>((resolve) => {
            began = resolve
          })
          const old = here.getOrSet(
            'raced',
            async () => {
              began()
              await sleep(200)
              return 'old'
            },
            { tags: ['t'] },
          )
          await loading
          await deleting.deleteByTag('t')
          const load = () => 'new'
          expect(await deleting.getOrSet('raced', load, { tags: ['t'] })).toBe('new')
          expect(await old).toBe('old') // it had begun before
          for (const cache of [here, there])
            await until(async () => (await cache.get('raced')) === 'new', { what: 'the new value', ...gone })
          await here.delete('raced')
        }
      })

      test('that Redis has lost has changed', async () => {
        await here.set('k', 1, { tags: ['lost'] })
        await untilCopied(there, 'k')
        await client().del(`${namespace}:c:main#lost`)
        await untilGone(there, 'k')
        expect(await there.get('k')).toBeUndefined()
      })

      test('may be any text', async () => {
        for (const tag of ['', '\n', '{x}', ':', '"', '__proto__', 'x'.repeat(10_000)]) {
          await here.set('odd', tag, { tags: [tag] })
          expect(await there.get('odd')).toBe(tag)
          await there.deleteByTag(tag)
          expect(await there.get('odd')).toBeUndefined()
        }
        await expect(here.deleteByTag(7 as never)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
      })
    })

    describe('a namespace', () => {
      test('has its own clear, which leaves others alone, and is part of the whole', async () => {
        const users = here.namespace('users')
        const admins = users.namespace('admins')
        const posts = there.namespace('posts')
        await users.set('1', 'u')
        await admins.set('1', 'a', { tags: ['t'] })
        await posts.set('1', 'p')
        await here.set('1', 'root')
        const all = (cache: Cache): Promise<unknown[]> =>
          Promise.all([
            cache.namespace('users').get('1'),
            cache.namespace('users').namespace('admins').get('1'),
            cache.namespace('posts').get('1'),
            cache.get('1'),
          ])
        const soon = (cache: Cache, values: unknown[]) =>
          until(async () => JSON.stringify(await all(cache)) === JSON.stringify(values), {
            what: `${JSON.stringify(values)}`,
            ...gone,
          })
        await soon(there, ['u', 'a', 'p', 'root'])
        expect(await there.get('users:1')).toBe('u')
        await there.namespace('users').namespace('admins').clear()
        await soon(here, ['u', undefined, 'p', 'root'])
        await admins.set('1', 'a')
        await users.clear()
        expect(await all(here)).toEqual([undefined, undefined, 'p', 'root'])
        await soon(there, [undefined, undefined, 'p', 'root'])
        await users.set('1', 'u', { tags: ['t'] })
        await there.deleteByTag('t')
        await soon(here, [undefined, undefined, 'p', 'root'])
        await here.clear()
        await soon(there, [undefined, undefined, undefined, undefined])
      })
    })

    describe('grace', () => {
      const fail = (): Promise<string> => Promise.reject(new Error('database away'))
      const graceful = { ttl: 60, grace: '1m' } as const

      async function withEvents<Event extends keyof CacheEvents>(cache: Cache, event: Event) {
        const heard: CacheEvents[Event][] = []
        cache.on(event, (detail) => heard.push(detail))
        return heard
      }

      test('serves an old value when its loader fails, and says so', async () => {
        const stale = await withEvents(there, 'stale')
        await here.set('g', 'old', graceful)
        await sleep(80)
        expect(await there.get('g')).toBeUndefined()
        expect(await there.getOrSet('g', fail, graceful)).toBe('old')
        expect(stale).toMatchObject([
          { key: 'g', reason: 'load-failed', error: { message: 'database away' } },
        ])
        expect(there.stats().stale).toBe(1)
        await expect(there.getOrSet('g', fail)).rejects.toThrow('database away') // whoever does not ask for it
        await expect(there.getOrSet('g', fail, { grace: 1 })).rejects.toThrow('database away')
        expect(await here.getOrSet('g', () => 'new', graceful)).toBe('new')
        expect(await there.get('g')).toBe('new')
      })

      test('serves it at once, or after a while, and the loader goes on', async () => {
        const stale = await withEvents(here, 'stale')
        for (const softTimeout of [0, 50]) {
          await here.set('soft', 'old', graceful)
          await sleep(80)
          let loads = 0
          let finish!: () => void
          const finished = new Promise<void>((resolve) => {
            finish = resolve
          })
          const slow = async () => {
            loads += 1
            await finished // it cannot be what they have waited for
            return 'new'
          }
          const calls = [here, there, here].map((cache) =>
            cache.getOrSet('soft', slow, { ...graceful, ttl: '1m', softTimeout }),
          )
          expect(await Promise.all(calls)).toEqual(['old', 'old', 'old'])
          finish()
          await until(async () => (await there.get('soft')) === 'new', { what: 'the new value', ...gone })
          expect(loads).toBe(1)
        }
        expect(stale[0]).toEqual({ key: 'soft', reason: 'soft-timeout' })
      })

      test('a hard timeout ends the wait, with an old value or none', async () => {
        const never = () => new Promise<string>(() => {})
        await expect(here.getOrSet('hard', never, { hardTimeout: 80 })).rejects.toMatchObject({
          code: 'ERR_AS_ONE_TIMEOUT',
          message: "the loader of 'hard' took longer than hardTimeout: 80 ms",
        })
        const short = another({ lease: 200 })
        await untilOn(short) // to connect may take longer than hardTimeout
        await here.set('hard2', 'old', graceful)
        await sleep(80)
        // Long enough for Redis to say what is there, also on a busy machine.
        expect(await short.getOrSet('hard2', never, { ...graceful, hardTimeout: 500 })).toBe('old')
        // A loader that never ends holds the key for hardTimeout and a lease.
        expect(await there.getOrSet('hard2', () => 'new')).toBe('new')
      })

      test('is over for what has been deleted', async () => {
        for (const remove of [() => here.delete('d'), () => here.clear(), () => here.deleteByTag('t')]) {
          await here.set('d', 'old', { ...graceful, tags: ['t'] })
          await sleep(80)
          await remove()
          await expect(there.getOrSet('d', fail, graceful)).rejects.toThrow('database away')
          await expect(here.getOrSet('d', fail, graceful)).rejects.toThrow('database away')
        }
      })

      test('begins with expire, which without it is a delete', async () => {
        await here.set('e', 'old', { grace: '1m' })
        await untilCopied(there, 'e')
        await here.expire('e')
        await untilGone(there, 'e')
        expect(await there.get('e')).toBeUndefined()
        expect(await there.getOrSet('e', fail, graceful)).toBe('old')
        expect(await client().pttl(keyOf('e'))).toBeLessThanOrEqual(60_000)
        await here.set('e', 'old')
        await here.expire('e')
        expect(await client().exists(keyOf('e'))).toBe(0)
      })

      test('is not lengthened, nor the value made fresh, by a slow replacement', async () => {
        // All of it longer than a busy machine stands still; the lease outlives the grace.
        const grace = 1_500
        const quick = another({ lease: 2_000 })
        await untilOn(quick)
        await here.set('slow', 'old', { ttl: 60, grace })
        const setAt = performance.now()
        await sleep(80)
        let finish!: (value: string) => void
        const loaded = new Promise<string>((resolve) => {
          finish = resolve
        })
        const options = { grace, softTimeout: 0, ttl: '1m' } as const
        expect(await quick.getOrSet('slow', () => loaded, options)).toBe('old')
        const seen: unknown[] = []
        while (performance.now() - setAt < 60 + grace + 200) {
          seen.push(await there.get('slow'))
          await sleep(20)
        }
        expect(new Set(seen)).toEqual(new Set([undefined]))
        const late = there.getOrSet('slow', () => 'other', { grace })
        await there.get('slow') // asked after it
        finish('new')
        expect(await late).toBe('new')
      })
    })

    describe('early', () => {
      test.each([0.3, 'random' as const])('%s replaces a value before its end, once', async (early) => {
        let loads = 0
        const refreshes = (): number => here.stats().refreshes + there.stats().refreshes
        const askBoth = (load: () => Promise<number>, options: LoadOptions): Promise<number[]> =>
          Promise.all([here, there].map((cache) => cache.getOrSet('early', load, options)))
        if (early === 'random') {
          const load = async () => {
            loads += 1
            await sleep(100)
            return loads
          }
          // How early is chance; that nobody waits for it is not to be seen in every run.
          const replaced = async () =>
            Math.max(...(await askBoth(load, { ttl: 700, early }))) > 2 && refreshes() > 0
          await until(replaced, { what: 'an early replacement', every: 2 })
          return
        }
        // Longer than a busy machine stands still: or it would be the TTL.
        const options = { ttl: 4_000, early }
        let finish!: () => void
        const finished = new Promise<void>((resolve) => {
          finish = resolve
        })
        const load = async () => {
          loads += 1
          if (loads > 1) await finished
          return loads
        }
        expect(await askBoth(load, options)).toEqual([1, 1])
        const begun = async () => {
          await askBoth(load, options)
          return loads > 1
        }
        await until(begun, { what: 'the replacement to begin', every: 2 })
        // Nobody waits for it: it does not end before they have been answered.
        expect(await askBoth(load, options)).toEqual([1, 1])
        finish()
        const replaced = async () => Math.min(...(await askBoth(load, options))) > 1
        await until(replaced, { what: 'the new value', every: 2 })
        expect(loads).toBe(2)
        expect(refreshes()).toBe(1)
      })
    })

    describe('a loader that is told and says something', () => {
      test('gets the value that it is to replace, and none that has been deleted', async () => {
        const seen: unknown[] = []
        const load = ({ stale }: LoadContext): string => {
          seen.push(stale)
          return 'new'
        }
        await here.set('s', { old: true }, { ttl: 60, grace: '1m' })
        await sleep(80)
        expect(await there.getOrSet('s', load)).toBe('new')
        await here.set('s', 'old', { ttl: 60, grace: '1m' })
        await sleep(80)
        await here.delete('s')
        expect(await there.getOrSet('s', load)).toBe('new')
        expect(await there.getOrSet('none', load, { ttl: 0 })).toBe('new')
        expect(seen).toEqual([{ old: true }, undefined, undefined])
      })

      test('chooses the TTL of its result, or that it is not stored', async () => {
        const lives = async (key: string, ttl: Duration, value: unknown = key, options: LoadOptions = {}) => {
          const load = ({ setTtl }: LoadContext): unknown => {
            setTtl('1h')
            setTtl(ttl)
            return value
          }
          expect(await here.getOrSet(key, load, { jitter: 0.9, ...options })).toBe(value)
          return client().pttl(keyOf(key))
        }
        for (const ttl of [20_000, '20s'] as const) {
          const left = await lives(`chosen-${ttl}`, ttl)
          expect(left).toBeGreaterThan(10_000)
          expect(left).toBeLessThanOrEqual(20_000)
          expect(await there.get(`chosen-${ttl}`)).toBe(`chosen-${ttl}`)
        }
        expect(await lives('null', 20_000, null, { negativeTtl: 1 })).toBeGreaterThan(10_000)
        expect(await lives('undefined', 20_000, undefined)).toBeGreaterThan(10_000)
        await lives('not-stored', 0)
        await until(async () => (await client().exists(keyOf('not-stored'))) === 0, {
          what: 'the lease to be given back',
          ...gone,
        })
        const wrong = here.getOrSet('wrong', ({ setTtl }) => setTtl('soon' as never))
        await expect(wrong).rejects.toMatchObject({
          code: 'ERR_AS_ONE_OPTIONS',
          message: expect.stringMatching(/setTtl .*'soon'/),
        })
      })
    })

    test('negativeTtl keeps null and undefined for a time of their own', async () => {
      const keptFor = async (nothing: null | undefined): Promise<void> => {
        let loads = 0
        const load = () => {
          loads += 1
          return nothing
        }
        const key = `no-${nothing}`
        const options = { negativeTtl: 2_000 } // longer than a busy machine takes for four calls
        for (const cache of [here, there, here, there])
          expect(await cache.getOrSet<unknown>(key, load, options)).toBe(nothing)
        expect(loads).toBe(1)
        expect(await there.has(key)).toBe(nothing === null)
        await sleep(2_010)
        await here.getOrSet<unknown>(key, load, options)
        expect(loads).toBe(2)
        await here.getOrSet<unknown>(`0-${nothing}`, load, { negativeTtl: 0 })
        await until(async () => (await client().exists(keyOf(`0-${nothing}`))) === 0, {
          what: 'the lease to be given back',
          ...gone,
        })
      }
      await Promise.all([keptFor(null), keptFor(undefined)])
    })

    test('getMany, setMany, deleteMany keep the order', async () => {
      const keys = Array.from({ length: 150 }, (_, at) => `m${at}`)
      await here.setMany(keys.map((key, at) => ({ key, value: at, ttl: '1m' })))
      expect(await there.getMany(keys)).toEqual(keys.map((_, at) => at))
      expect(await there.getMany(['m3', 'none', 'm3', ''])).toEqual([3, undefined, 3, undefined])
      await there.deleteMany(keys.slice(0, 149))
      await untilGone(here, 'm148')
      expect(await here.getMany(['m148', 'm149'])).toEqual([undefined, 149])
      await expect(here.getMany(['m149', '\ud800'])).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
    })

    test('wrap is getOrSet for a function', async () => {
      let loads = 0
      const double = here.wrap((n: number) => ({ n, twice: n * 2, loads: ++loads }), {
        key: (n) => `double:${n}`,
        ttl: '1m',
      })
      expect([await double(2), await double(2), await double(3)]).toMatchObject([
        { twice: 4, loads: 1 },
        { twice: 4, loads: 1 },
        { twice: 6, loads: 2 },
      ])
      expect(await there.get('double:3')).toMatchObject({ twice: 6 })
      expect(() => here.wrap(() => 1, { key: () => 'k', ttl: -1 })).toThrow(/ttl must be a duration/)
      expect(() => here.wrap(() => 1, {} as never)).toThrow(/key of wrap/)
    })

    test('a serializer of one’s own', async () => {
      const serializer = {
        encode: (value: unknown) => serialize(value).toString('base64'),
        decode: (text: string) => deserialize(Buffer.from(text, 'base64')) as unknown,
      }
      const [one, two] = [another({ name: 'v8', serializer }), another({ name: 'v8', serializer })]
      const value = { at: new Date(5), big: 5n, map: new Map([[1, new Set(['x'])]]), nan: Number.NaN }
      await one.set('rich', value)
      expect(await two.get('rich')).toEqual(value)
      expect(Object.isFrozen(await two.get('rich'))).toBe(true)
      const json = another({ name: 'v8' })
      expect(await json.get('rich')).toBeUndefined() // what cannot be read is a miss
      expect(await json.getOrSet('rich', () => 'json')).toBe('json')
      expect(await two.getOrSet('rich', () => 'again')).toBe('again')
    })

    test('maxValueBytes: larger values are refused, and those of others not read', async () => {
      const small = another({ maxValueBytes: 1_000 })
      const refused = {
        code: 'ERR_AS_ONE_CACHE',
        message: expect.stringMatching(/maxValueBytes allows 1000/),
      }
      await expect(small.set('k', 'x'.repeat(1_001))).rejects.toMatchObject(refused)
      await expect(small.getOrSet('k', () => ['x'.repeat(1_001)])).rejects.toMatchObject(refused)
      expect(await here.getOrSet('k', () => 'y'.repeat(400_000))).toHaveLength(400_000)
      expect(await small.get('k')).toBeUndefined()
      expect((await small.getOrSet('k', () => 'short')).length).toBe(5)
      expect(await here.get('k')).toBe('short')
    })

    test('a listener that throws harms no call', async () => {
      const errors: unknown[] = []
      const hear = (error: unknown): void => void errors.push(error)
      const listeners = process.listeners('uncaughtException')
      process.removeAllListeners('uncaughtException')
      process.once('uncaughtException', hear)
      const stop = here.on('stale', () => {
        throw new Error('listener')
      })
      await here.set('k', 'old', { ttl: 1, grace: '1m' })
      await sleep(5)
      expect(await here.getOrSet('k', () => Promise.reject(new Error('no')), { grace: '1m' })).toBe('old')
      await until(() => errors.length === 1, { what: 'the error of the listener', ...gone })
      for (const listener of listeners) process.on('uncaughtException', listener)
      stop()
      expect(await here.getOrSet('k', () => Promise.reject(new Error('no')), { grace: '1m' })).toBe('old')
      expect(errors).toHaveLength(1)
    })
  })
}
