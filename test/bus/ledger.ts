import { expect } from 'vitest'
import type { Bus, Gap } from '../../src/bus/index.ts'

/** First and last number. */
export type Interval = readonly [number, number]

/** What one member has heard, and been told that it has not heard, of each publisher's messages. */
export interface Account {
  /** Received numbers, in the order of their arrival, runs of successors joined. */
  readonly received: Record<string, Interval[]>
  readonly gaps: Gap[]
}

/** Keeps the account of a bus from now on: every topic, every publisher but itself. */
export function keepAccount(bus: Bus): Account {
  const account: Account = { received: {}, gaps: [] }
  bus.on('gap', (gap) => account.gaps.push(gap))
  bus.subscribe('**', (_payload, { from, sequence, self }) => {
    if (!self) note(account, from, sequence)
  })
  return account
}

function note({ received }: Account, from: string, sequence: number): void {
  received[from] ??= []
  const last = received[from].at(-1)
  if (last && last[1] + 1 === sequence) received[from].splice(-1, 1, [last[0], sequence])
  else received[from].push([sequence, sequence])
}

/** How many of a publisher's messages are neither received nor reported yet. */
export function unaccounted({ received, gaps }: Account, publisher: string, accepted: number): number {
  let known = 0
  for (const [from, to] of received[publisher] ?? []) known += to - from + 1
  for (const gap of gaps) if (gap.publisher === publisher) known += gap.count ?? 0
  return accepted - known
}

/** accepted = received + reported: each number once, in order, and every gap real. Returns how many were reported. */
export function expectBalanced({ received, gaps }: Account, publisher: string, accepted: number): number {
  const own = received[publisher] ?? []
  expect(own, 'received in order, nothing twice').toEqual([...own].sort((a, b) => a[0] - b[0]))
  const reported = gaps.filter((gap) => gap.publisher === publisher)
  for (const { from, to, count } of reported) expect(count).toBe(to! - from + 1)
  const all = [...own, ...reported.map(({ from, to }): Interval => [from, to!])].sort((a, b) => a[0] - b[0])
  let last = 0
  for (const [from, to] of all) {
    expect(from, `what follows number ${last} of ${publisher}`).toBe(last + 1)
    last = to
  }
  expect(last).toBe(accepted)
  return reported.reduce((sum, { count }) => sum + (count ?? 0), 0)
}

/** Every number from `first` to `last` was received or reported, none twice; returns how many were reported. */
export function expectCovered(
  { received, gaps }: Account,
  publisher: string,
  first: number,
  last: number,
): number {
  const missing = gaps
    .filter((gap) => gap.publisher === publisher)
    .map(({ from, to }): Interval => [from, to!])
  const pieces = [...(received[publisher] ?? []), ...missing]
    .filter(([, to]) => to >= first)
    .sort((a, b) => a[0] - b[0])
  const shown = JSON.stringify(pieces)
  expect(pieces[0]?.[0], shown).toBeLessThanOrEqual(first)
  for (const [at, [from]] of pieces.entries()) if (at > 0) expect(from, shown).toBe(pieces[at - 1]![1] + 1)
  expect(pieces.at(-1)?.[1], shown).toBe(last)
  return missing.reduce((sum, [from, to]) => sum + to - from + 1, 0)
}
