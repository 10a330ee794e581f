import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Freshness } from '../../src/cache/freshness.ts'
import { NearCache } from '../../src/cache/near-cache.ts'
import { monotonicMs } from '../../src/core/monotonic.ts'
import { fcParams } from '../helpers/random.ts'

const found = { value: 'value', size: 10 }
const forAMinute = {
  found,
  freshMs: 60_000,
  graceMs: 0,
  refreshMs: Number.POSITIVE_INFINITY,
  token: 'token',
  tags: [],
}

function open(): { fresh: Freshness; near: NearCache } {
  const fresh = new Freshness(600_000, 'new') // a proof that outlasts the test, however long that takes
  fresh.proven(monotonicMs())
  return { fresh, near: new NearCache(fresh, { maxEntries: 10, maxBytes: 10_000 }, false) }
}

describe('a copy', () => {
  test('counts while there is a proof, and again when there is a new one', () => {
    const { fresh, near } = open()
    near.fill(near.begin('k'), forAMinute)
    expect(near.get('k')?.value).toBe('value')
    const aged = new Freshness(1_000, 'new')
    aged.proven(monotonicMs() - 1_001)
    expect(aged.isProven()).toBe(false)
    fresh.lost('gone')
    expect(near.get('k')).toBeUndefined()
    fresh.proven(monotonicMs())
    expect(near.get('k')?.value).toBe('value')
  })

  test('is not made from a read that was sent before the hub had listened', () => {
    const fresh = new Freshness(60_000, 'new')
    const near = new NearCache(fresh, { maxEntries: 10, maxBytes: 10_000 }, false)
    const early = near.begin('k')
    fresh.proven(monotonicMs())
    near.fill(early, forAMinute)
    expect(near.size).toBe(0)
    near.fill(near.begin('k'), forAMinute)
    expect(near.size).toBe(1)
  })

  test('is not made from a read that a change has overtaken', () => {
    const { near } = open()
    const changes: ((key: string) => void)[] = [
      (key) => near.drop(key),
      () => near.clear(),
      (key) => {
        near.beginWrite(key)
        near.endWrite(key)
      },
    ]
    for (const change of changes) {
      const marks = [near.begin('k'), near.begin('k')]
      const other = near.begin('other')
      change('k')
      for (const mark of marks) near.fill(mark, forAMinute)
      expect(near.get('k')).toBeUndefined()
      for (const mark of [...marks, other]) near.end(mark)
      near.fill(near.begin('k'), forAMinute)
      expect(near.get('k')).toBeDefined()
      near.clear()
    }
  })

  test('is not made while this process writes the key', () => {
    const { near } = open()
    near.beginWrite('k')
    near.beginWrite('k')
    near.endWrite('k')
    near.fill(near.begin('k'), forAMinute)
    expect(near.size).toBe(0)
    near.endWrite('k')
    near.fill(near.begin('k'), forAMinute)
    expect(near.size).toBe(1)
  })

  test('made while Redis was away needs no proof and has its own time', () => {
    const { fresh, near } = open()
    fresh.lost('away')
    near.fillWithoutProof(near.begin('k'), found, 60_000, 0)
    near.fillWithoutProof(near.begin('over'), found, -1, 0)
    expect(near.get('k')?.value).toBe('value')
    expect(near.get('over')).toBeUndefined()
    near.drop('k')
    expect(near.get('k')).toBeUndefined()
    near.fillWithoutProof(near.begin('k'), found, 60_000, 0, ['#tag'])
    near.dropTag('#other')
    expect(near.get('k')?.value).toBe('value')
    near.dropTag('#tag')
    expect(near.get('k')).toBeUndefined()
    near.fillWithoutProof(near.begin('k'), found, 60_000, 0)
    near.endOutage()
    expect(near.get('k')).toBeUndefined()
  })

  test('with grace is kept for the last step, when it is outdated or nobody knows', () => {
    const { near } = open()
    const graceful = { ...forAMinute, graceMs: 60_000, tags: ['#tag'] }
    for (const end of [() => near.drop('k'), () => near.dropTag('#tag'), () => near.doubt()]) {
      near.fill(near.begin('k'), graceful)
      expect(near.unproven('k')?.value).toBe('value')
      end()
      expect(near.get('k')).toBeUndefined()
      expect(near.last('k', { outdated: true })?.value).toBe('value')
      const isUnheard = near.unproven('k') !== undefined
      expect(near.last('k', { outdated: false }) !== undefined).toBe(isUnheard)
    }
    expect(near.unproven('k')?.value).toBe('value') // of that nothing has been heard
    near.drop('k')
    expect(near.unproven('k')).toBeUndefined()
    for (const end of [() => near.clear(), () => near.beginWrite('k')]) {
      near.fill(near.begin('k'), graceful)
      end()
      expect(near.last('k', { outdated: true })).toBeUndefined()
    }
  })

  test('wakes who waits for its change, once', () => {
    const { near } = open()
    let woken = 0
    const mark = near.begin('k')
    mark.onSoiled = () => void woken++
    near.drop('other')
    expect(woken).toBe(0)
    near.drop('k')
    near.drop('k')
    near.end(mark)
    expect(woken).toBe(1)
  })
})

test('a tag takes along its copies and no others, however many keys have come and gone', () => {
  // Some that many have, and so many others that tags are forgotten, too.
  const tag = fc.oneof(fc.constantFrom('a', 'b', 'c', 'd'), fc.nat({ max: 2_000 }).map(String))
  const step = fc.oneof(
    {
      weight: 40,
      arbitrary: fc.record({ key: fc.nat({ max: 400 }), tags: fc.uniqueArray(tag, { maxLength: 3 }) }),
    },
    { weight: 1, arbitrary: fc.record({ drop: tag }) },
  )
  fc.assert(
    fc.property(fc.array(step, { minLength: 500, maxLength: 1_500 }), (steps) => {
      const { near } = open()
      const tagsOf = new Map<string, readonly string[]>()
      for (const each of steps) {
        if ('drop' in each) {
          const had = [...tagsOf].filter(([key]) => near.get(key) !== undefined)
          near.dropTag(each.drop)
          for (const [key, tags] of had) expect(near.get(key) === undefined).toBe(tags.includes(each.drop))
        } else {
          near.fill(near.begin(`${each.key}`), { ...forAMinute, tags: each.tags })
          tagsOf.set(`${each.key}`, each.tags)
        }
      }
    }),
    { ...fcParams(), numRuns: 20, endOnFailure: true },
  )
})
