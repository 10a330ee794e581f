import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { MemberRecord } from '../../src/bus/members.ts'
import { readMemberRecords } from '../../src/bus/members.ts'
import { createRoster } from '../../src/bus/roster.ts'

const id = (number: number): string => number.toString(16).padStart(16, '0')
const member = (number: number): MemberRecord => ({
  id: id(number),
  machine: 'm',
  pid: number,
  index: undefined,
})
const hubA = 'a'.repeat(16)
const hubB = 'b'.repeat(16)

let changes = 0
const create = () => createRoster('0'.repeat(16), () => changes++)

beforeEach(() => {
  changes = 0
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

test('own members at once, those of other hubs as they say', () => {
  const roster = create()
  roster.add(member(1))
  roster.hear({ hub: hubA, members: [member(2), member(3)] })
  expect(roster.own().map(({ pid }) => pid)).toEqual([1])
  expect(roster.all().map(({ pid }) => pid)).toEqual([1, 2, 3])
  roster.hear({ hub: hubA, members: [member(2)] })
  expect(roster.all().map(({ pid }) => pid)).toEqual([1, 2])
  expect(changes).toBe(3)
  roster.hear({ hub: hubA, members: [member(2)] })
  expect(changes).toBe(3) // the same again is no news
  roster.hear({ hub: hubA, members: [] })
  roster.remove(id(1))
  roster.remove(id(1))
  expect(roster.all()).toEqual([])
  expect(changes).toBe(5)
})

test('a hub that says nothing for its lease of 15 s is forgotten, one that goes on is not', () => {
  const roster = create()
  roster.add(member(1))
  roster.hear({ hub: hubA, members: [member(2)] })
  roster.hear({ hub: hubB, members: [member(3)] })
  for (let second = 0; second < 15; second += 5) {
    vi.advanceTimersByTime(5_000)
    roster.hear({ hub: hubB, members: [member(3)] })
    roster.forgetSilent()
    expect(roster.all().map(({ pid }) => pid)).toEqual([1, 2, 3])
  }
  vi.advanceTimersByTime(1)
  changes = 0
  roster.forgetSilent()
  expect(roster.all().map(({ pid }) => pid)).toEqual([1, 3])
  expect(changes).toBe(1)
})

test('a worker that has moved to a hub of its own is one member, and stays when the old hub is forgotten', () => {
  const roster = create()
  roster.hear({ hub: hubA, members: [member(2), member(3)] })
  roster.hear({ hub: hubB, members: [member(2)] })
  expect(roster.all().map(({ pid }) => pid)).toEqual([2, 3])
  roster.hear({ hub: hubA, members: [] })
  expect(roster.all().map(({ pid }) => pid)).toEqual([2])
})

test('what another hub may not say: whose it is not, and more than anyone has', () => {
  const roster = create()
  for (const hub of ['', 'x'.repeat(16), 5, null, undefined, 'A'.repeat(16)])
    roster.hear({ hub, members: [member(1)] })
  expect(roster.all()).toEqual([])
  const many = Array.from({ length: 20_000 }, (_, at) => member(at))
  for (let hub = 0; hub < 5; hub++) roster.hear({ hub: id(hub), members: many.slice(0, 9_000) })
  roster.hear({ hub: hubA, members: many })
  expect(roster.all().length).toBeLessThanOrEqual(10_000)
  roster.clear()
  expect(roster.all()).toEqual([])
})

test('records are read as data: what is malformed is left out', () => {
  const good = { ...member(1), index: 3 }
  const bad = [
    null,
    5,
    'x',
    [],
    {},
    { ...good, id: 'short' },
    { ...good, machine: 5 },
    { ...good, pid: '1' },
    { ...good, pid: 1.5 },
  ]
  expect(readMemberRecords([good, ...bad])).toEqual([good])
  expect(readMemberRecords([{ ...good, machine: 'm'.repeat(1_000), index: 'x', extra: 1 }])).toEqual([
    { id: id(1), machine: 'm'.repeat(255), pid: 1, index: undefined },
  ])
  for (const list of [undefined, null, 'text', { length: 1 }]) expect(readMemberRecords(list)).toEqual([])
})
