import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'

/** `json`: the payload's own JSON. `tagged`: JSON in which `{ "$": tag, v }` stands for what JSON cannot say. */
export const Encoding = { json: 0 as number, tagged: 1 as number }

const MAX_DEPTH = 64
/** Decimal digits of a BigInt; reading one takes time that grows with their square. */
const MAX_DIGITS = 10_000

export interface EncodedPayload {
  readonly encoding: number
  readonly json: string
}

/**
 * A payload as text. Plain data is JSON as it is; `undefined`, NaN, Infinity, BigInt, Date, Map, Set, Buffer, Uint8Array
 * and Error survive through tags; other class instances travel as their own enumerable properties or their `toJSON()`.
 *
 * @throws SharedStateError `ERR_AS_ONE_PAYLOAD` for functions, symbols, cycles and more than 64 levels
 */
export function encodePayload(value: unknown): EncodedPayload {
  if (isPlain(value, 0)) return { encoding: Encoding.json, json: JSON.stringify(value) }
  return { encoding: Encoding.tagged, json: JSON.stringify(tag(value, 0)) }
}

/**
 * The value of a parsed payload. Data only: nothing in it is called, constructed by name, or evaluated.
 *
 * @throws SharedStateError `ERR_AS_ONE_PAYLOAD` for what `encodePayload` cannot have written
 */
export function decodePayload(encoding: unknown, parsed: unknown): unknown {
  if (encoding === Encoding.tagged) return untag(parsed, 0)
  if (encoding !== Encoding.json) throw payloadError(`has the unknown encoding ${show(encoding)}`)
  if (!isShallow(parsed, 0)) throw tooDeep() // a receiver that walks it would run out of stack
  return parsed
}

function isShallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  if (depth >= MAX_DEPTH) return false
  if (Array.isArray(value)) return value.every((item) => isShallow(item, depth + 1))
  for (const key in value) if (!isShallow((value as Record<string, unknown>)[key], depth + 1)) return false
  return true
}

function isPlain(value: unknown, depth: number): boolean {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return true
    case 'number':
      return Number.isFinite(value)
    case 'object':
      break
    default:
      return false
  }
  if (value === null) return true
  if (depth >= MAX_DEPTH) throw tooDeep()
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) if (!isPlain(value[i], depth + 1)) return false
    return true
  }
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return false
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return false
  for (const key in value) if (!isPlain((value as Record<string, unknown>)[key], depth + 1)) return false
  return true
}

type Tagged = { $: string; v?: unknown }

function tag(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return value
    case 'number':
      return Number.isFinite(value) ? value : tagged('number', String(value))
    case 'undefined':
      return { $: 'undefined' } satisfies Tagged
    case 'bigint':
      return tagged('bigint', digitsOf(value))
    case 'object':
      if (value === null) return null
      if (depth >= MAX_DEPTH) throw tooDeep()
      return tagObject(value, depth)
    default:
      throw payloadError(`holds a ${typeof value}, which cannot be sent; send data`)
  }
}

function tagged(name: string, v: unknown): Tagged {
  return { $: name, v }
}

function digitsOf(value: bigint): string {
  const digits = value.toString()
  if (digits.length > MAX_DIGITS) throw payloadError(`holds a BigInt of more than ${MAX_DIGITS} digits`)
  return digits
}

function tagObject(value: object, depth: number): unknown {
  const inner = (item: unknown): unknown => tag(item, depth + 1)
  if (Array.isArray(value)) return Array.from(value, inner)
  if (value instanceof Date) return tagged('date', value.getTime())
  if (value instanceof Map)
    return tagged(
      'map',
      Array.from(value, ([key, item]) => [inner(key), inner(item)]),
    )
  if (value instanceof Set) return tagged('set', Array.from(value, inner))
  if (Buffer.isBuffer(value)) return tagged('buffer', value.toString('base64'))
  if (value instanceof Uint8Array) return tagged('bytes', Buffer.from(value).toString('base64'))
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    throw payloadError(
      `holds a ${value.constructor.name}, which cannot be sent; send a Buffer or a Uint8Array`,
    )
  }
  if (value instanceof Error) {
    const { name, message, stack, code, cause } = value as Error & { code?: unknown }
    const known = {
      name,
      message: String(message),
      stack,
      ...(code === undefined ? {} : { code }),
      ...(cause === undefined ? {} : { cause }),
    }
    return tagged('error', tagProperties(known, inner))
  }
  const { toJSON } = value as { toJSON?: unknown }
  if (typeof toJSON === 'function') return inner(toJSON.call(value, ''))
  const properties = tagProperties(value, inner)
  return Object.hasOwn(properties, '$') ? tagged('object', properties) : properties
}

function tagProperties(value: object, inner: (item: unknown) => unknown): Record<string, unknown> {
  const properties: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) if (key !== '__proto__') properties[key] = inner(item)
  return properties
}

function untag(value: unknown, depth: number): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (depth > MAX_DEPTH) throw tooDeep()
  const inner = (item: unknown): unknown => untag(item, depth + 1)
  if (Array.isArray(value)) return value.map(inner)
  if (!Object.hasOwn(value, '$')) return untagProperties(value, inner)
  const { $: name, v } = value as Tagged
  switch (name) {
    case 'undefined':
      return undefined
    case 'number':
      return v === 'NaN' || v === 'Infinity' || v === '-Infinity' ? Number(v) : malformed(name)
    case 'bigint':
      return typeof v === 'string' && v.length <= MAX_DIGITS && /^-?\d+$/.test(v)
        ? BigInt(v)
        : malformed(name)
    case 'date':
      return v === null || typeof v === 'number' ? new Date(v ?? Number.NaN) : malformed(name)
    case 'map':
      return new Map(
        listOf(v, name).map((entry) => [inner(listOf(entry, name)[0]), inner(listOf(entry, name)[1])]),
      )
    case 'set':
      return new Set(listOf(v, name).map(inner))
    case 'buffer':
      return Buffer.from(typeof v === 'string' ? v : malformed(name), 'base64')
    case 'bytes':
      return new Uint8Array(Buffer.from(typeof v === 'string' ? v : malformed(name), 'base64'))
    case 'error':
      return errorOf(untagProperties(typeof v === 'object' && v !== null ? v : malformed(name), inner))
    case 'object':
      return untagProperties(typeof v === 'object' && v !== null ? v : malformed(name), inner)
    default:
      return malformed(name)
  }
}

function untagProperties(value: object, inner: (item: unknown) => unknown): Record<string, unknown> {
  const properties: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) if (key !== '__proto__') properties[key] = inner(item)
  return properties
}

function errorOf({ name, message, stack, code, cause }: Record<string, unknown>): Error {
  if (typeof message !== 'string') return malformed('error')
  const error = new Error(message, cause === undefined ? undefined : { cause })
  for (const [key, value] of Object.entries({ name, stack, code })) {
    if (typeof value === 'string' || (key === 'code' && typeof value === 'number'))
      Object.defineProperty(error, key, { value, configurable: true, writable: true })
  }
  return error
}

function listOf(value: unknown, name: string): readonly unknown[] {
  return Array.isArray(value) ? value : malformed(name)
}

function malformed(name: unknown): never {
  throw payloadError(`has a malformed tag, ${show(name)}`)
}

function tooDeep(): SharedStateError {
  return payloadError(`is cyclic or nested deeper than ${MAX_DEPTH} levels; send a flat copy`)
}

function payloadError(what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_PAYLOAD', `the payload ${what}`)
}
