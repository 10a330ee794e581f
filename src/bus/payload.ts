import { SharedStateError } from '../core/errors.ts'

/** `json`: the payload's own JSON. `tagged`: JSON in which `{ "$": tag, v }` stands for what JSON cannot say. */
export const Encoding = { json: 0 as number, tagged: 1 as number }

const MAX_DEPTH = 64

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

/** The value of a parsed payload. Data only: nothing in it is called, constructed by name, or evaluated. */
export function decodePayload(encoding: number, parsed: unknown): unknown {
  return encoding === Encoding.json ? parsed : untag(parsed, 0)
}

/** JSON.parse that leaves out `__proto__` keys, however they are spelled; the scan is cheap, the walk is rare. */
export function parseSafely(text: string): unknown {
  const value: unknown = JSON.parse(text)
  return /__proto__|\\u005f/i.test(text) ? withoutProto(value) : value
}

function withoutProto(root: unknown): unknown {
  const pending: unknown[] = [root] // a loop, since whoever can write to Redis chooses the depth
  for (let value = pending.pop(); value !== undefined; value = pending.pop()) {
    if (typeof value !== 'object' || value === null) continue
    if (Object.hasOwn(value, '__proto__')) Reflect.deleteProperty(value, '__proto__')
    for (const child of Object.values(value))
      if (typeof child === 'object' && child !== null) pending.push(child)
  }
  return root
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
  if (depth > MAX_DEPTH) throw tooDeep()
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return value
    case 'number':
      return Number.isFinite(value) ? value : tagged('number', String(value))
    case 'undefined':
      return { $: 'undefined' } satisfies Tagged
    case 'bigint':
      return tagged('bigint', value.toString())
    case 'object':
      return value === null ? null : tagObject(value, depth)
    default:
      throw payloadError(`holds a ${typeof value}, which cannot be sent; send data`)
  }
}

function tagged(name: string, v: unknown): Tagged {
  return { $: name, v }
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
      message,
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
  if (depth > 2 * MAX_DEPTH) throw tooDeep() // every level may add the level of its tag
  const inner = (item: unknown): unknown => untag(item, depth + 1)
  if (Array.isArray(value)) return value.map(inner)
  if (!Object.hasOwn(value, '$')) return untagProperties(value, inner)
  const { $: name, v } = value as Tagged
  switch (name) {
    case 'undefined':
      return undefined
    case 'number':
      return Number(v)
    case 'bigint':
      return typeof v === 'string' && /^-?\d{1,10000}$/.test(v) ? BigInt(v) : malformed(name)
    case 'date':
      return new Date(typeof v === 'number' ? v : Number.NaN)
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
  const error = new Error(String(message), cause === undefined ? undefined : { cause })
  for (const [key, text] of Object.entries({ name, stack, code })) {
    if (typeof text === 'string')
      Object.defineProperty(error, key, { value: text, configurable: true, writable: true })
  }
  return error
}

function listOf(value: unknown, name: string): readonly unknown[] {
  return Array.isArray(value) ? value : malformed(name)
}

function malformed(name: unknown): never {
  throw payloadError(`has a malformed ${String(name)} tag`)
}

function tooDeep(): SharedStateError {
  return payloadError(`is cyclic or nested deeper than ${MAX_DEPTH} levels; send a flat copy`)
}

function payloadError(what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_PAYLOAD', `the payload ${what}`)
}
