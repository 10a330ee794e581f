import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import { show } from '../core/options.ts'

/** How values become text and back. What `decode` throws at is a miss. */
export interface Serializer {
  /** Text for any value; undefined for what there is no text for. */
  encode(value: unknown): string | undefined
  decode(text: string): unknown
}

/** JSON; `__proto__` keys are left out. */
export const jsonSerializer: Serializer = {
  encode(value) {
    if (typeof value === 'number' && !Number.isFinite(value)) throw new Error(`is ${value}`)
    return JSON.stringify(value)
  },
  decode: parseSafely,
}

/** A value as it was read, deeply frozen; `size` in bytes of memory, as far as can be told. */
export interface Found {
  readonly value: unknown
  readonly size: number
}

/** Stands for undefined, which is a value only where `negativeTtl` makes it one. */
const NO_VALUE: string = ''

/** Values as text, within bounds, the same for whoever reads them. */
export class Values {
  /** What `decode` reads as undefined. */
  readonly nothing: string = NO_VALUE
  readonly #serializer: Serializer
  readonly #maxBytes: number

  constructor(serializer: Serializer, maxBytes: number) {
    this.#serializer = serializer
    this.#maxBytes = maxBytes
  }

  /** @throws SharedStateError `ERR_AS_ONE_CACHE` for what the serializer has no text for, and for what is too long */
  encode(key: string, value: unknown): string {
    this.#checkSize(key, leastSize(value, this.#maxBytes))
    let text: string | undefined
    try {
      text = this.#serializer.encode(value)
    } catch (error) {
      throw valueError(key, `cannot be stored: ${messageOf(error).split('\n', 1)[0]}`, error)
    }
    if (typeof text !== 'string' || text === NO_VALUE)
      throw valueError(key, `is ${show(value)}; null is a value, undefined is none`)
    this.#checkSize(key, text.length)
    if (text.length * 3 > this.#maxBytes) this.#checkSize(key, Buffer.byteLength(text))
    return text
  }

  /** Undefined when it cannot be read. */
  decode(text: string): Found | undefined {
    if (text === NO_VALUE) return { value: undefined, size: 0 }
    if (text.length > this.#maxBytes) return undefined
    try {
      const value = this.#serializer.decode(text)
      if (value === undefined) return undefined
      return { value, size: freeze(value) }
    } catch {
      return undefined
    }
  }

  #checkSize(key: string, bytes: number): void {
    if (bytes > this.#maxBytes)
      throw valueError(key, `has ${bytes} bytes or more; maxValueBytes allows ${this.#maxBytes}`)
  }
}

/** So many parts of a value are looked at before it is encoded; only what is simply too large is to be found. */
const PARTS_LOOKED_AT = 500

/** A lower bound of the encoded size, found without copying anything. */
function leastSize(root: unknown, enough: number): number {
  if (typeof root === 'string') return root.length
  if (typeof root !== 'object' || root === null) return 0
  let size = 0
  let left = PARTS_LOOKED_AT
  const pending: object[] = [root]
  for (let value = pending.pop(); value !== undefined && size <= enough; value = pending.pop()) {
    if (ArrayBuffer.isView(value)) {
      size += value.byteLength
      continue
    }
    if (Array.isArray(value)) size += value.length
    for (const name in value) {
      if (left-- <= 0) return size
      const part: unknown = (value as Record<string, unknown>)[name]
      if (typeof part === 'string') size += part.length
      else if (typeof part === 'object' && part !== null) pending.push(part)
    }
  }
  return size
}

/** Of V8's heap, in bytes: an object's header and one slot, a string's header, a number that is no small integer. */
const OBJECT_BYTES = 28
const ARRAY_BYTES = 40
const SLOT_BYTES = 8
const STRING_BYTES = 18
const NUMBER_BYTES = 12
const MAX_RECURSION = 200

/** Freezes a decoded value, since all readers of this process get the same one; tells about how much memory it takes. */
function freeze(value: unknown): number {
  if (typeof value === 'object' && value !== null) return freezeObject(value, 0)
  return sizeOf(value)
}

function sizeOf(value: unknown): number {
  if (typeof value === 'string') return STRING_BYTES + value.length
  if (typeof value === 'number')
    return Number.isInteger(value) && Math.abs(value) < 0x40000000 ? 0 : NUMBER_BYTES
  return 0
}

function freezeObject(value: object, depth: number): number {
  if (depth > MAX_RECURSION) return freezeByLoop(value)
  if (ArrayBuffer.isView(value)) return value.byteLength + 2 * ARRAY_BYTES // cannot be frozen
  let size = OBJECT_BYTES
  if (Array.isArray(value)) {
    size = ARRAY_BYTES
    for (let at = 0; at < value.length; at++) size += SLOT_BYTES + freezePart(value[at], depth)
  } else {
    for (const name in value) size += SLOT_BYTES + freezePart((value as Record<string, unknown>)[name], depth)
  }
  Object.freeze(value) // last: a frozen object is slower to walk
  return size
}

function freezePart(part: unknown, depth: number): number {
  return typeof part === 'object' && part !== null ? freezeObject(part, depth + 1) : sizeOf(part)
}

/** Slower, but whoever can write to Redis chooses the depth. */
function freezeByLoop(root: object): number {
  let size = 0
  const pending: object[] = [root]
  for (let value = pending.pop(); value !== undefined; value = pending.pop()) {
    Object.freeze(value)
    size += OBJECT_BYTES
    for (const part of Object.values(value)) {
      size += SLOT_BYTES
      if (typeof part === 'object' && part !== null) pending.push(part)
      else size += sizeOf(part)
    }
  }
  return size
}

function valueError(key: string, what: string, cause?: unknown): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_CACHE', `the value of ${show(key)} ${what}`, { cause })
}
