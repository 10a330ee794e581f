import fc from 'fast-check'
import { expect, test } from 'vitest'
import { checkTopic, createTopicTable } from '../../src/bus/topics.ts'
import { fcParams } from '../helpers/random.ts'

/** The plain meaning: walk both, segment by segment. */
function matches(pattern: string, topic: string): boolean {
  const [wanted, given] = [pattern.split('.'), topic.split('.')]
  for (let at = 0; ; at++) {
    if (wanted[at] === '**' && at === wanted.length - 1) return given.length > at
    if (at >= wanted.length || at >= given.length) return wanted.length === given.length
    if (wanted[at] !== '*' && wanted[at] !== given[at]) return false
  }
}

const segment = fc.constantFrom('', 'a', 'b', 'ab', 'A', 'ä', '?', '[ab]')
const topic = fc
  .array(segment, { minLength: 1, maxLength: 4 })
  .map((all) => all.join('.'))
  .filter((text) => text !== '')
const pattern = fc
  .tuple(fc.array(fc.oneof(segment, fc.constant('*')), { maxLength: 4 }), fc.boolean())
  .map(([all, open]) => [...all, ...(open ? ['**'] : [])].join('.'))
  .filter((text) => text !== '')

test('patterns match what the reference says, through adding, removing and asking again', () => {
  const step = fc.oneof(
    fc.record({ add: pattern }),
    fc.record({ remove: fc.nat() }),
    fc.record({ ask: topic }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const table = createTopicTable<number>()
      const model: { pattern: string; value: number; remove(): void }[] = []
      for (const [value, one] of steps.entries()) {
        if ('add' in one) model.push({ pattern: one.add, value, remove: table.add(one.add, value) })
        else if ('remove' in one) {
          const [gone] = model.splice(one.remove % Math.max(1, model.length), 1)
          gone?.remove()
          gone?.remove()
        } else {
          const expected = model
            .filter((entry) => matches(entry.pattern, one.ask))
            .map((entry) => entry.value)
          expect(table.matching(one.ask)).toEqual(expected)
        }
        expect(table.size).toBe(model.length)
      }
    }),
    fcParams({ numRuns: 300 }),
  )
})

test.each([
  ['user.*', 'user.7', true],
  ['user.*', 'user', false],
  ['user.*', 'user.7.name', false],
  ['user.**', 'user.7.name', true],
  ['user.**', 'user', false],
  ['**', 'anything.at.all', true],
  ['*.name', 'user.name', true],
  ['*', 'user', true],
  ['*', 'user.7', false],
])('%s and %s: %s', (wanted, given, expected) => {
  const table = createTopicTable<true>()
  table.add(wanted, true)
  expect(table.matching(given).length === 1).toBe(expected)
})

const badTopics: unknown[] = ['', 'a*', '*', 'a'.repeat(257), null, undefined, 5, {}, ['a']]
test.each(badTopics)('%s is no topic', (bad) => {
  expect(() => checkTopic(bad)).toThrow(expect.objectContaining({ code: 'ERR_AS_ONE_OPTIONS' }))
})

const badPatterns: unknown[] = ['', 'a*', '**.a', 'a.**.b', 'a.***', '*a.b', 'a'.repeat(257), null, 5]
test.each(badPatterns)('%s is no pattern', (bad) => {
  const table = createTopicTable<true>()
  expect(() => table.add(bad as string, true)).toThrow(
    expect.objectContaining({ code: 'ERR_AS_ONE_OPTIONS' }),
  )
  expect(table.size).toBe(0)
})

test('topics that a client chooses do not pile up', () => {
  const table = createTopicTable<true>()
  table.add('user.*', true)
  for (let at = 0; at < 5_000; at++) expect(table.matching(`user.${at}`)).toHaveLength(1)
  table.clear()
  expect(table.size).toBe(0)
  expect(table.matching('user.1')).toEqual([])
})
