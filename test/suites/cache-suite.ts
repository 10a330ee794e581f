import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster, Redis } from 'ioredis'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Cache, CacheOptions } from '../../src/cache/index.ts'
import { openCache, untilCopied, untilOn } from '../cache/open-cache.ts'
import { testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'

export interface CacheSuiteRedis {
  /** Ways to the same Redis. */
  url: string
  /** Somebody else's client. */
  client: Redis | Cluster
}

const gone = { every: 2, deadline: 2_000 }

/** What a cache promises, on whatever Redis `open` gives. */
export function cacheSuite(name: string, open: () => Promise<CacheSuiteRedis>): void {
  describe(`cache on ${name}`, () => {
    let redis: CacheSuiteRedis
    let namespace: string
    /** Two processes. */
    let here: Cache
    let there: Cache
    const another = (options?: CacheOptions): Cache => openCache(redis.url, namespace, options)
    const keyOf = (key: string): string => `${namespace}:c:main:${key}`
    const masters = (): Redis[] =>
      'nodes' in redis.client ? redis.client.nodes('master') : [redis.client as Redis]
    const allKeys = async (): Promise<string[]> =>
      (await Promise.all(masters().map((node) => node.keys(`${namespace}:*`)))).flat()

    beforeAll(async () => {
      redis = await open()
    })
    beforeEach(async () => {
      namespace = testNamespace()
      here = another()
      there = another()
      await untilOn(here, there)
      return async () => {
        for (const node of masters())
          for (const key of await node.keys(`${namespace}:*`)) {
            if (!key.includes('foreign')) expect(await node.pttl(key), key).not.toBe(-1)
          }
      }
    })

    describe('values', () => {
      test('null, 0, empty text and false are hits in Redis and in the copy', async () => {
        for (const value of [null, 0, '', false]) {
          await here.set('falsy', value)
          expect(await there.get('falsy')).toBe(value)
          await untilCopied(there, 'falsy')
          expect(await there.get('falsy')).toBe(value)
          expect(await there.getOrSet('falsy', () => 'not asked')).toBe(value)
          expect(await there.has('falsy')).toBe(true)
        }
      })

      test('are the same for whoever asks, and frozen', async () => {
        const load = () => ({ at: new Date(0), list: [{ deep: true }] })
        const loaded = (await here.getOrSet('drift', load)) as unknown
        expect(loaded).toEqual({ at: '1970-01-01T00:00:00.000Z', list: [{ deep: true }] })
        const read = await there.get<{ list: { deep: boolean }[] }>('drift')
        expect(read).toEqual(loaded)
        expect(() => {
          ;(read as { list: { deep: boolean }[] }).list[0]!.deep = false
        }).toThrow(TypeError)
      })

      test('undefined is no value: it is passed on and not stored', async () => {
        expect(await here.getOrSet('none', () => undefined)).toBeUndefined()
        expect(await here.getOrSet('none', () => 1)).toBe(1)
        await expect(here.set('none', undefined)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
      })

      test('that JSON has no word for are refused, and the lease given back', async () => {
        const cyclic: Record<string, unknown> = {}
        cyclic.self = cyclic
        for (const value of [1n, cyclic, () => {}, Number.NaN]) {
          await expect(here.set('bad', value)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
          await expect(here.getOrSet('bad', () => value)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
        }
        expect(await there.getOrSet('bad', () => 'good')).toBe('good')
      })

      test('are found under the oddest keys', async () => {
        const keys = [
          '',
          '\n\r\n',
          '{tag}a',
          '{',
          '}{',
          'ключ 🗝',
          'x'.repeat(16_384),
          '__proto__',
          ':a:',
          '!',
        ]
        for (const key of keys) {
          await here.set(key, key)
          expect(await there.get(key)).toBe(key)
          await untilCopied(there, key)
          await here.delete(key)
          await until(() => there.peek(key) === undefined, { what: 'the copy to go', ...gone })
        }
        for (const key of ['\ud800', 'x'.repeat(16_385), 7 as never])
          await expect(here.get(key)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
      })
    })

    describe('time to live', () => {
      test('ends copies no later than the entry they were read from', async () => {
        const ttl = 2_000 // a busy machine may need a part of it until there is a copy
        await here.set('short', 1, { ttl })
        const setAt = performance.now()
        await untilCopied(there, 'short')
        // When the last read that found it began: how long it took is not a matter of the copy.
        let last = 0
        for (;;) {
          const began = performance.now()
          if ((await there.get('short')) === undefined) break
          last = began - setAt
          await sleep(1)
        }
        expect(last).toBeGreaterThan(0)
        expect(last).toBeLessThan(ttl + 10)
      })

      test('is kept when it is shortened or taken away by somebody else', async () => {
        await here.set('changed', 1)
        await untilCopied(there, 'changed')
        const ttl = 2_000 // a busy machine may need a part of it until there is a copy again
        await redis.client.pexpire(keyOf('changed'), ttl)
        await until(() => there.peek('changed') === undefined, { what: 'the copy to go', ...gone })
        await untilCopied(there, 'changed')
        await sleep(ttl + 20)
        expect(await there.get('changed')).toBeUndefined()
      })

      test('0 stores nothing, and leaves nothing old', async () => {
        await here.set('zero', 'old')
        await here.set('zero', 'new', { ttl: 0 })
        expect(await here.get('zero')).toBeUndefined()
        expect(await here.getOrSet('zero', () => 'loaded', { ttl: 0 })).toBe('loaded')
        expect(await there.get('zero')).toBeUndefined()
      })

      test('may be longer than a timer can count', async () => {
        await here.set('long', 1, { ttl: '400d' })
        await untilCopied(there, 'long')
        expect(await there.get('long')).toBe(1)
        expect(await redis.client.pttl(keyOf('long'))).toBeGreaterThan(399 * 86_400_000)
      })
    })

    describe('a change', () => {
      test('is seen by the process that made it, at once', async () => {
        for (let round = 0; round < 100; round++) {
          const reads = [here.get('own'), here.get('own')]
          await here.set('own', round)
          expect(await here.get('own')).toBe(round)
          await Promise.all(reads)
          expect(await here.get('own')).toBe(round)
        }
        await here.delete('own')
        expect(await here.get('own')).toBeUndefined()
      })

      test('reaches the copies of another process', async () => {
        await here.set('k', 1)
        await untilCopied(there, 'k')
        await here.set('k', 2)
        await until(() => there.peek('k') === undefined, { what: 'the copy to go', ...gone })
        expect(await there.get('k')).toBe(2)
        await untilCopied(there, 'k')
        await here.delete('k')
        await until(() => there.peek('k') === undefined, { what: 'the copy to go', ...gone })
        expect(await there.get('k')).toBeUndefined()
      })

      test('by anybody else reaches the copies too', async () => {
        const foreign: [string, () => Promise<unknown>][] = [
          ['DEL', () => redis.client.del(keyOf('k'))],
          ['SET', () => redis.client.set(keyOf('k'), 'foreign', 'PX', 60_000)],
          ['EVAL', () => redis.client.eval(`redis.call('UNLINK', KEYS[1])`, 1, keyOf('k'))],
          ['FLUSHALL', () => Promise.all(masters().map((node) => node.flushall()))],
        ]
        for (const [what, change] of foreign) {
          await here.set('k', what)
          await untilCopied(here, 'k')
          await untilCopied(there, 'k')
          await change()
          for (const cache of [here, there])
            await until(() => cache.peek('k') === undefined, {
              what: `the copy to go after ${what}`,
              ...gone,
            })
        }
        expect(await there.get('k')).toBeUndefined()
      })
    })

    describe('clear', () => {
      test('makes all entries of its cache invisible to all, and none of another', async () => {
        const other = another({ name: 'other' })
        const keys = Array.from({ length: 50 }, (_, at) => `k${at}`)
        await Promise.all(keys.flatMap((key) => [here.set(key, 'old'), other.set(key, 'kept')]))
        await untilCopied(there, 'k7')
        await here.clear()
        for (const key of keys) expect(await here.get(key)).toBeUndefined()
        await until(() => there.peek('k7') === undefined, { what: 'the copy to go', ...gone })
        for (const key of keys) expect(await there.get(key)).toBeUndefined()
        expect(await there.getOrSet('k7', () => 'new')).toBe('new')
        expect(await here.get('k7')).toBe('new')
        expect(await other.get('k7')).toBe('kept')
      })

      test('deletes no key, whatever there are', async () => {
        await here.set('stays', 1)
        const before = (await allKeys()).length
        await here.clear()
        expect((await allKeys()).length).toBe(before)
      })

      test('is what a lost generation means', async () => {
        await here.set('k', 1)
        await untilCopied(there, 'k')
        await redis.client.del(`${namespace}:c:main`)
        await until(() => there.peek('k') === undefined, { what: 'the copy to go', ...gone })
        expect(await there.get('k')).toBeUndefined()
        await there.set('k', 2)
        expect(await here.get('k')).toBe(2)
      })
    })

    describe('a loader', () => {
      test('runs once for all callers of all processes', async () => {
        let loads = 0
        const load = async () => {
          loads += 1
          await sleep(150)
          return { loads }
        }
        const off = another({ l1: false })
        const calls = [here, there, off].flatMap((cache) =>
          Array.from({ length: 50 }, () => cache.getOrSet('cold', load)),
        )
        await sleep(60)
        calls.push(...[here, there, off].map((cache) => cache.getOrSet('cold', load)))
        expect(new Set((await Promise.all(calls)).map((value) => value.loads))).toEqual(new Set([1]))
        expect(loads).toBe(1)
      })

      test('runs once however often its lease has to be renewed', async () => {
        // Longer than a busy machine stands still: then the lease would rightly be another's.
        const [a, b] = [another({ lease: 2_000 }), another({ lease: 2_000 })]
        let loads = 0
        const load = async () => {
          loads += 1
          await sleep(5_000)
          return 'late'
        }
        expect(await Promise.all([a, b, a, b].map((cache) => cache.getOrSet('slow', load)))).toEqual(
          Array(4).fill('late'),
        )
        expect(loads).toBe(1)
        expect(a.stats().stores + b.stats().stores).toBe(1)
      })

      test('that fails tells its callers so, and the next one runs', async () => {
        const failure = new Error('database away')
        const fail = () => Promise.reject(failure)
        const [one, two] = await Promise.allSettled([here.getOrSet('f', fail), here.getOrSet('f', fail)])
        expect([one, two]).toEqual([
          { status: 'rejected', reason: failure },
          { status: 'rejected', reason: failure },
        ])
        await expect(
          here.getOrSet('f', () => {
            throw failure
          }),
        ).rejects.toBe(failure)
        expect(await there.getOrSet('f', () => 'works')).toBe('works')
      })

      test('that asks for its own key is told so', async () => {
        const inner = () => here.getOrSet('self', () => 'never')
        await expect(here.getOrSet('self', inner)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
        const around = () => here.getOrSet('b', () => here.getOrSet('a', () => 'never'))
        await expect(here.getOrSet('a', around)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
        await sleep(50)
        const late = async () => {
          expect(await here.getOrSet('other', () => 'loaded')).toBe('loaded') // the end of another loader
          await sleep(100) // the invalidation by its own marker has come by then
          return here.getOrSet('self', () => 'never')
        }
        await expect(here.getOrSet('self', late)).rejects.toMatchObject({ code: 'ERR_AS_ONE_CACHE' })
      })

      test('goes on without a caller that gives up', async () => {
        const load = () => sleep(100).then(() => 'loaded')
        const abort = new AbortController()
        const waiting = here.getOrSet('given-up', load, { signal: abort.signal })
        const other = here.getOrSet('given-up', load)
        abort.abort()
        await expect(waiting).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
        expect(await other).toBe('loaded')
      })

      const writes: [string, (key: string) => Promise<unknown>][] = [
        ['delete', (key) => there.delete(key)],
        ['set', (key) => there.set(key, 'newer')],
        ['clear', () => there.clear()],
        ['DEL of a foreign client', (key) => redis.client.del(keyOf(key))],
        ['SET of a foreign client', (key) => redis.client.set(keyOf(key), 'foreign', 'PX', 60_000)],
        ['HSET of a foreign client', (key) => overwriteWithHash(redis.client, keyOf(key))],
      ]
      test.each(writes)('does not store what %s has made old', async (what, write) => {
        let reading = (): void => {}
        const began = new Promise<void>((resolve) => {
          reading = resolve
        })
        const value = here.getOrSet('raced', async () => {
          reading()
          await sleep(100)
          return 'old'
        })
        await began
        await write('raced')
        if (what !== 'set' && !what.includes('foreign')) {
          expect(await there.getOrSet('raced', () => 'newer')).toBe('newer')
        }
        expect(await value).toBe('old') // it had begun before
        for (const cache of [here, there]) expect(await cache.get('raced')).not.toBe('old')
        if (what !== 'clear') expect(here.stats().refusedStores).toBe(1)
      })
    })

    describe('what somebody else has left there', () => {
      const header = (generation: string): string =>
        `a1:${generation}:${'-'.repeat(24)}:${'0'.repeat(13)}:${'0'.repeat(13)}`
      const garbage = (generation: string): string[] => {
        const head = header(generation)
        return [
          '',
          'foreign',
          '{"a":1}',
          'a1:',
          '\n'.repeat(90),
          `${head}\n`,
          `${head}\n\n{"a":`,
          `${head}\n\nundefined`,
          `${head}\n[0,"#tag"]\n1`,
          `${head}\n{}\n1`,
          `${head}\n[\n1`,
          `${head} {}`,
          head,
          head.replace('0'.repeat(13), 'x'.repeat(13)),
          `${head.slice(0, -13)}${'x'.repeat(13)}\n\n1`,
          `${header('y'.repeat(16))}\n\n1`,
        ]
      }

      test('is a miss, and gives way to what is loaded', async () => {
        const generation = (await redis.client.get(`${namespace}:c:main`)) as string
        for (const [at, text] of garbage(generation).entries()) {
          const key = `garbage-${at}`
          await redis.client.set(keyOf(key), text, 'PX', 60_000)
          expect(await here.get(key), text).toBeUndefined()
          expect(await there.getOrSet(key, () => 'loaded'), text).toBe('loaded')
          expect(await here.get(key), text).toBe('loaded')
        }
        await redis.client.rpush(keyOf('list'), 'a')
        expect(await here.get('list')).toBeUndefined()
        expect(await here.getOrSet('list', () => 'loaded')).toBe('loaded')
        await redis.client.del(`${namespace}:c:main`)
        await redis.client.rpush(`${namespace}:c:main`, 'a')
        expect(await here.getOrSet('list', () => 'again')).toBe('again')
      })

      test('cannot reach a prototype, nor the stack', async () => {
        const generation = (await redis.client.get(`${namespace}:c:main`)) as string
        const write = (text: string) =>
          redis.client.set(keyOf('evil'), `${header(generation)}\n\n${text}`, 'PX', 60_000)
        await write('{"__proto__":{"admin":true},"\\u005f_proto__":{"admin":true},"a":1}')
        const value = (await here.get('evil')) as Record<string, unknown>
        expect(Object.keys(value)).toEqual(['a'])
        await write('['.repeat(100_000) + ']'.repeat(100_000))
        await there.get('evil')
      })
    })

    test('works without copies, and counts what it does', async () => {
      const off = another({ l1: false, name: 'off' })
      const on = another({ name: 'off' })
      await untilOn(on)
      await off.set('k', 1)
      expect(await off.get('k')).toBe(1)
      expect(await off.getOrSet('k', () => 2)).toBe(1)
      expect(await off.getOrSet('l', () => 2)).toBe(2)
      expect(off.peek('k')).toBeUndefined()
      expect(off.stats()).toEqual({
        hits: { l1: 0, l2: 2 },
        misses: 1,
        loads: 1,
        stores: 1,
        refusedStores: 0,
        invalidations: 0,
        refreshes: 0,
        stale: 0,
        l1: { entries: 0, bytes: 0, on: false, reason: 'switched off by l1: false' },
      })
      await untilCopied(on, 'k')
      const before = on.stats()
      expect(await on.get('k')).toBe(1)
      expect(on.stats().hits).toEqual({ ...before.hits, l1: before.hits.l1 + 1 })
      expect(on.stats().l1).toMatchObject({ entries: 1, on: true })
    })

    test('keeps its copies within their bounds', async () => {
      const small = another({ l1: { maxEntries: 10, maxBytes: '20kb' } })
      await untilOn(small)
      for (let at = 0; at < 50; at++) {
        await here.set(`e${at}`, 'x'.repeat(at * 40))
        await small.get(`e${at}`)
        expect(small.stats().l1.entries).toBeLessThanOrEqual(10)
        expect(small.stats().l1.bytes).toBeLessThanOrEqual(20_480)
      }
      expect(small.stats().l1.entries).toBeGreaterThan(5)
    })

    test('is over when it is closed', async () => {
      const closed = another()
      await closed.set('k', 1)
      await closed.close()
      await closed.close()
      for (const call of [closed.get('k'), closed.set('k', 2), closed.getOrSet('k', () => 1), closed.clear()])
        await expect(call).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })
    })
  })
}

async function overwriteWithHash(client: Redis | Cluster, key: string): Promise<void> {
  await client.del(key)
  await client.hset(key, 'a', 1)
  await client.pexpire(key, 60_000)
}
