import { parseSafely } from '../core/json.ts'

/**
 * What is stored under a key: a header of fixed width; then a line break, what else is known (mostly nothing), a line
 * break, the encoded value. Without the first line break it is a marker: nobody has a value, and somebody is loading
 * it. Lua counts from 1 (`lease.ts`).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0  | 3  | `a1:` |
 * | 3  | 16 | generation: `clear()` makes entries of earlier ones invisible |
 * | 19 | 1  | `:` |
 * | 20 | 24 | token of the write that made it, or of the lease |
 * | 44 | 1  | `:` |
 * | 45 | 13 | deadline of the lease, ms since the epoch by the server's clock, or zeros |
 * | 58 | 1  | `:` |
 * | 59 | 13 | so many ms at the end of its TTL the value is stale |
 * | 72 | …  | line break, `[ms of loading, tag, version, …]` or nothing, line break, value; or nothing |
 */
const MAGIC = 'a1:'
const TOKEN_START = 20
const TOKEN_END = 44
const DEADLINE_START = 45
const GRACE_START = 59
export const HEADER_LENGTH = 72
export const TOKEN_LENGTH: number = TOKEN_END - TOKEN_START
const LINE_BREAK = 10
const NO_LEASE = `:${'0'.repeat(13)}:`
const NO_GRACE = '0'.repeat(13)

/** A text in the form of an entry, taken apart. Whether it still counts is for `versions.ts` to say. */
export interface Entry {
  readonly generation: string
  readonly token: string
  /** Somebody has, or had, the lease. */
  readonly leased: boolean
  readonly graceMs: number
  /** How long the loader took; 0 when that is of no interest. */
  readonly loadMs: number
  /** Names and versions in turn, as they were before the loader began. */
  readonly tags: readonly string[]
  readonly tagNames: readonly string[]
  /** Undefined for a marker. */
  readonly payload: string | undefined
}

export interface EntryParts {
  readonly generation: string
  readonly token: string
  readonly graceMs: number
  readonly loadMs?: number
  readonly tags?: readonly string[]
}

export function encodeEntry(
  { generation, token, graceMs, loadMs, tags }: EntryParts,
  payload: string,
): string {
  const grace = graceMs === 0 ? NO_GRACE : String(graceMs).padStart(13, '0')
  return `${MAGIC}${generation}:${token}${NO_LEASE}${grace}\n${encodeMeta(loadMs, tags)}\n${payload}`
}

/** Of an entry, and behind the header of a marker; mostly nothing. */
export function encodeMeta(loadMs = 0, tags: readonly string[] = NONE): string {
  return loadMs === 0 && tags.length === 0 ? '' : JSON.stringify([Math.round(loadMs), ...tags])
}

const NONE: readonly string[] = []
const DIGITS = /^\d+$/

/** Undefined for whatever a foreign client has left there. */
export function parseEntry(text: string): Entry | undefined {
  if (text.length < HEADER_LENGTH || !text.startsWith(MAGIC)) return undefined
  const grace = text.slice(GRACE_START, HEADER_LENGTH)
  if (grace !== NO_GRACE && !DIGITS.test(grace)) return undefined
  let payload: string | undefined
  let meta = ''
  if (text.charCodeAt(HEADER_LENGTH) === LINE_BREAK) {
    const end = text.indexOf('\n', HEADER_LENGTH + 1)
    if (end < 0) return undefined
    meta = text.slice(HEADER_LENGTH + 1, end)
    payload = text.slice(end + 1)
  } else {
    meta = text.slice(HEADER_LENGTH)
  }
  const known = metaOf(meta)
  if (known === undefined) return undefined
  return {
    generation: generationIn(text),
    token: tokenIn(text),
    leased: !text.startsWith(NO_LEASE, TOKEN_END),
    graceMs: grace === NO_GRACE ? 0 : Number(grace),
    loadMs: known.loadMs,
    tags: known.tags,
    tagNames: known.tagNames,
    payload,
  }
}

/** Of a text that has our header, whatever follows it. */
export function generationIn(text: string): string {
  return text.slice(MAGIC.length, TOKEN_START - 1)
}

/** Likewise. */
export function tokenIn(text: string): string {
  return text.slice(TOKEN_START, TOKEN_END)
}

type Meta = Pick<Entry, 'loadMs' | 'tags' | 'tagNames'>

const NOTHING_ELSE: Meta = { loadMs: 0, tags: NONE, tagNames: NONE }
/** What `options.ts` lets through, namespaces included, and then some. */
export const MAX_META_LENGTH = 200_000

interface Remembered {
  /** Of the text that was parsed last. */
  digest: number
  text: string
  meta: Meta | undefined
}

/** Of entries with the same tags all of it is the same: as a rule it need not be parsed again. */
const REMEMBERED: readonly Remembered[] = Array.from({ length: 64 }, () => ({
  digest: 0,
  text: '',
  meta: undefined,
}))
const LONGEST_REMEMBERED = 1_000
const DIGESTED = 12

function metaOf(text: string): Meta | undefined {
  if (text === '') return NOTHING_ELSE
  if (text.length > LONGEST_REMEMBERED) return parseMeta(text)
  let digest = text.length // and its end, where the last tag's version is
  for (let at = Math.max(0, text.length - DIGESTED); at < text.length; at++)
    digest = (digest * 31 + text.charCodeAt(at)) | 0
  const remembered = REMEMBERED[digest & (REMEMBERED.length - 1)] as Remembered
  if (remembered.text === text) return remembered.meta
  const meta = parseMeta(text)
  if (remembered.digest === digest) {
    remembered.text = Buffer.from(text).toString() // of its own: it is a part of a longer one
    remembered.meta = meta
  }
  remembered.digest = digest
  return meta
}

function parseMeta(meta: string): Meta | undefined {
  if (meta.length > MAX_META_LENGTH) return undefined
  try {
    const list: unknown = parseSafely(meta)
    if (!Array.isArray(list)) return undefined
    const loadMs: unknown = list.shift()
    if (typeof loadMs !== 'number' || list.length % 2 !== 0) return undefined
    for (const each of list) if (typeof each !== 'string') return undefined
    return { loadMs, tags: list as string[], tagNames: list.filter((_, at) => at % 2 === 0) as string[] }
  } catch {
    return undefined
  }
}

type Field = 'generation' | 'token' | 'deadline' | 'grace'

/** For Lua's `string.sub`: first and last byte, counted from 1. */
export const LUA_OFFSETS: Readonly<Record<Field, string>> = {
  generation: `${MAGIC.length + 1}, ${TOKEN_START - 1}`,
  token: `${TOKEN_START + 1}, ${TOKEN_END}`,
  deadline: `${DEADLINE_START + 1}, ${GRACE_START - 1}`,
  grace: `${GRACE_START + 1}, ${HEADER_LENGTH}`,
}

/** For SETRANGE: counted from 0. */
export const LUA_SETRANGE: Readonly<Record<Exclude<Field, 'generation'>, number>> = {
  token: TOKEN_START,
  deadline: DEADLINE_START,
  grace: GRACE_START,
}

/** A part of a longer text keeps all of it in memory; the bytes of an entry are not to stay for its token. */
export function ownText(part: string): string {
  return Buffer.from(part, 'latin1').toString('latin1')
}
