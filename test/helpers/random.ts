import { createHash, randomInt } from 'node:crypto'
import { basename } from 'node:path'
import type { Parameters } from 'fast-check'
import { expect } from 'vitest'
import { long } from './long.ts'

/** AS_ONE_SEED repeats a run; otherwise every file draws its own. */
export const seed: number = seedFrom(process.env.AS_ONE_SEED)

function seedFrom(text: string | undefined): number {
  if (text === undefined) return randomInt(2 ** 31)
  if (/^\d{1,10}$/.test(text) && Number(text) < 2 ** 31) return Number(text)
  throw new Error(`AS_ONE_SEED=${text} is no integer from 0 to ${2 ** 31 - 1}`)
}

let announced = false

/** Once per file, and only in files that use it. */
export function announceSeed(): void {
  if (announced) return
  announced = true
  console.info(`[seed] AS_ONE_SEED=${seed} repeats this`)
}

export interface Rng {
  /** From min to max, both included. */
  int(min: number, max: number): number
  /** From min up to, not including, max. @default 0 to 1 */
  float(min?: number, max?: number): number
  pick<T>(from: readonly T[]): T
  /** A new array. */
  shuffle<T>(items: readonly T[]): T[]
  bytes(length: number): Buffer
  /** @default 8 letters and digits */
  string(length?: number, alphabet?: string): string
  /** An independent stream, so that a second consumer does not shift the first one's numbers. */
  fork(label: string): Rng
}

/** mulberry32: 32 bits of state are plenty for test data, and it is short enough to read. */
export function createRng(from: number | string): Rng {
  let state = typeof from === 'number' ? from | 0 : createHash('sha256').update(from).digest().readInt32LE()
  const origin = state

  function next(): number {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  const rng: Rng = {
    int: (min, max) => min + Math.floor(next() * (max - min + 1)),
    float: (min = 0, max = 1) => min + next() * (max - min),
    pick(items) {
      if (items.length === 0) throw new Error('nothing to pick from')
      return items[rng.int(0, items.length - 1)] as (typeof items)[number]
    },
    shuffle(items) {
      const shuffled = [...items]
      for (let last = shuffled.length - 1; last > 0; last--) {
        const other = rng.int(0, last)
        ;[shuffled[last], shuffled[other]] = [shuffled[other] as never, shuffled[last] as never]
      }
      return shuffled
    },
    bytes: (length) => Buffer.from(Array.from({ length }, () => rng.int(0, 255))),
    string: (length = 8, alphabet = 'abcdefghijklmnopqrstuvwxyz0123456789') =>
      Array.from({ length }, () => alphabet.charAt(rng.int(0, alphabet.length - 1))).join(''),
    fork: (label) => createRng(`${origin}/${label}`),
  }
  return rng
}

/** The file's own stream: files under one AS_ONE_SEED draw different numbers. */
export function fileRng(): Rng {
  announceSeed()
  return createRng(`${seed}/${basename(expect.getState().testPath ?? '')}`)
}

/** For `fc.assert(property, fcParams())`: the same examples under the same seed, more of them in long runs. */
export function fcParams<T = unknown>(params: Parameters<T> = {}): Parameters<T> {
  announceSeed()
  return { seed, numRuns: long(100, 5_000), ...params }
}
