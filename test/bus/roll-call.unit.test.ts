import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createCompany } from '../../src/bus/company.ts'
import { createRollCall } from '../../src/bus/roll-call.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

function rollCall() {
  let over = 0
  const call = createRollCall('me', () => over++)
  return { call, overs: () => over }
}

test('is over when as many have answered as Redis has counted, in whatever order the two are learnt', () => {
  const { call, overs } = rollCall()
  const question = call.begin()
  call.answered('a', ['other 1', question])
  call.answered('a', [question])
  call.counted(question, 2)
  expect([call.isOver, overs()]).toEqual([false, 0])
  call.answered('b', [question])
  expect([call.isOver, call.isUnanswered, overs()]).toEqual([true, false, 1])
  const next = call.begin()
  expect(call.isOver).toBe(false)
  call.counted(question, 0)
  call.answered('a', [question])
  expect(call.isOver).toBe(false)
  call.counted(next, 0)
  expect([call.isOver, overs()]).toEqual([true, 2])
})

test('past its deadline it is over and unanswered, until the last one has answered after all', () => {
  const { call, overs } = rollCall()
  const question = call.begin()
  call.counted(question, 1)
  vi.advanceTimersByTime(1_000)
  expect([call.isOver, call.isUnanswered, overs()]).toEqual([true, true, 1])
  call.answered('a', [question])
  expect([call.isOver, call.isUnanswered, overs()]).toEqual([true, false, 1])
})

test('cut off, it does not end by itself, and what was asked before counts no more', () => {
  const { call, overs } = rollCall()
  const question = call.begin()
  call.end()
  call.counted(question, 0)
  call.answered('a', [question])
  vi.advanceTimersByTime(5_000)
  expect([call.isOver, overs()]).toEqual([false, 0])
})

test('questions of others are answered once, and only so many', () => {
  const { call } = rollCall()
  for (const question of ['a 1', 'a 1', 7, undefined, 'x'.repeat(65)]) call.ask(question)
  expect(call.takeQuestions()).toEqual(['a 1'])
  for (let at = 0; at < 2_000; at++) call.ask(`b ${at}`)
  expect(call.takeQuestions()).toHaveLength(1_000)
  expect(call.takeQuestions()).toEqual([])
})

test('alone is who is counted alone and has heard nobody for 15 s', () => {
  const company = createCompany()
  expect(company.isAlone).toBe(false)
  company.counted(2)
  expect(company.isAlone).toBe(false)
  company.counted(1)
  expect(company.isAlone).toBe(true)
  company.heard()
  company.counted(1) // the reply to what was sent before
  vi.advanceTimersByTime(15_000)
  expect(company.isAlone).toBe(false)
  vi.advanceTimersByTime(1)
  expect(company.isAlone).toBe(true)
  company.counted(undefined)
  expect(company.isAlone).toBe(false)
  company.counted(1)
  company.forget()
  expect(company.isAlone).toBe(false)
})
