import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import { show } from '../core/options.ts'

/**
 * What is stored under a key: a header of fixed width, a line break, the value's JSON. Without the line break it is a
 * marker: nobody has a value, and somebody is loading it. Lua counts from 1 (`lease.ts`).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0  | 3  | `a1:` |
 * | 3  | 16 | generation: `clear()` makes entries of earlier ones invisible |
 * | 19 | 1  | `:` |
 * | 20 | 16 | token of the lease, or dashes |
 * | 36 | 1  | `:` |
 * | 37 | 13 | its deadline, ms since the epoch by the server's clock, or zeros |
 * | 50 | …  | line break and JSON, or nothing |
 */
const MAGIC = 'a1:'
const GENERATION_END = 19
const HEADER_LENGTH = 50
const NO_LEASE = `:${'-'.repeat(16)}:${'0'.repeat(13)}\n`
const LINE_BREAK = 10

/** More would take longer than any timeout, on the way to Redis and in every process that reads it. */
const MAX_VALUE_LENGTH = 64 << 20

/** The entry was made before (or after) a `clear()` that the reader knows of (or does not). */
export const OTHER_GENERATION: unique symbol = Symbol('other generation')

/** A value as it was read, deeply frozen; `size` in characters. */
export interface Found {
  readonly value: unknown
  readonly size: number
}

export function encodeEntry(generation: string, json: string): string {
  return MAGIC + generation + NO_LEASE + json
}

/** Undefined for a marker and for whatever a foreign client has left there. */
export function decodeEntry(entry: string, generation: string): Found | typeof OTHER_GENERATION | undefined {
  if (entry.charCodeAt(HEADER_LENGTH) !== LINE_BREAK || !entry.startsWith(MAGIC)) return undefined
  if (!entry.startsWith(generation, MAGIC.length)) {
    return /^\d{16}:$/.test(entry.slice(MAGIC.length, GENERATION_END + 1)) ? OTHER_GENERATION : undefined
  }
  const value = decodeValue(entry.slice(HEADER_LENGTH + 1))
  return value === undefined ? undefined : { value, size: entry.length }
}

/**
 * A value as JSON.
 *
 * @throws SharedStateError `ERR_AS_ONE_CACHE` for what JSON has no word for, cycles, and more than 64 Mi characters
 */
export function encodeValue(key: string, value: unknown): string {
  if (typeof value === 'number' && !Number.isFinite(value)) throw valueError(key, `is ${value}`)
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch (error) {
    throw valueError(key, `cannot be stored: ${messageOf(error).split('\n', 1)[0]}`, error)
  }
  if (json === undefined) throw valueError(key, `is ${show(value)}; null is a value, undefined is none`)
  if (json.length > MAX_VALUE_LENGTH) throw valueError(key, `has ${json.length} characters of JSON`)
  return json
}

/** Frozen, since all readers of this process get the same object. Undefined when it is no JSON. */
export function decodeValue(json: string): unknown {
  try {
    const value = parseSafely(json)
    return typeof value === 'object' && value !== null ? freeze(value, 0) : value
  } catch {
    return undefined
  }
}

const MAX_RECURSION = 200

function freeze(value: object, depth: number): object {
  if (depth > MAX_RECURSION) return freezeByLoop(value)
  Object.freeze(value)
  for (const key in value) {
    const child: unknown = (value as Record<string, unknown>)[key]
    if (typeof child === 'object' && child !== null) freeze(child, depth + 1)
  }
  return value
}

/** Slower, but whoever can write to Redis chooses the depth. */
function freezeByLoop(root: object): object {
  const pending: object[] = [root]
  for (let value = pending.pop(); value !== undefined; value = pending.pop()) {
    Object.freeze(value)
    for (const child of Object.values(value))
      if (typeof child === 'object' && child !== null) pending.push(child)
  }
  return root
}

function valueError(key: string, what: string, cause?: unknown): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_CACHE', `the value of ${show(key)} ${what}`, { cause })
}
