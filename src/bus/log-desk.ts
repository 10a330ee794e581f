import { messageOf } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import type { Keys } from '../core/keys.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { defineScript, runScript } from '../redis/scripts.ts'
import { encodeControl, FRAME_VERSION, Kind } from './frame.ts'
import type { Receipt } from './hub.ts'
import { createOutbox } from './outbox.ts'

/** Messages for a log topic, on their way to Redis. */
export interface AppendRequest {
  readonly topic: string
  readonly publisher: string
  readonly maxLen: number
  /** 0 for none. */
  readonly receipt: number
  /** The publisher's number on this topic of the first one. */
  readonly first: number
  /** JSON of a `LogEntry` each. */
  readonly entries: readonly string[]
}

/** Publisher, its number on the topic, sent at, encoding, payload. */
export type LogEntry = readonly [string, number, number, unknown, unknown]

export interface ReplayRequest {
  readonly topic: string
  /** First id wanted; undefined: none, only where the log ends. */
  readonly from: string | undefined
}

/** Entries of a log topic with their ids `epoch-n`, where `n` has no holes and a new epoch is a new history. */
export interface LogPage {
  readonly topic: string
  readonly entries: readonly (readonly [id: string, entry: LogEntry])[]
  /** The answer to a `ReplayRequest`; absent on what was just written. */
  readonly answer?: {
    readonly from: string | undefined
    /** Id of the last entry, undefined for an empty log. */
    readonly last?: string | undefined
    readonly error?: string
  }
}

/** Appends are recognised when they come again for this long after the publisher's last one. */
const REMEMBER_MS = 3_600_000
const PAGE_ENTRIES = 64
const MAX_PAGE_CHARACTERS = 4 << 20

const APPEND = defineScript(
  2,
  `-- KEYS[1] the topic's stream, KEYS[2] the publisher's last number on it.
-- ARGV: channel, PUBLISH or SPUBLISH, most entries, topic as JSON, ms to remember, frame version, frame kind, then
-- number and JSON of each message.
-- Result: how many were new. A frame with the new ones and their ids is published.
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local epoch
if newest then
  epoch = string.match(newest[1], '^%d+')
else
  local now = redis.call('TIME')
  epoch = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
end
local written = {}
for i = 8, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  if number > last then
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], epoch .. '-*', 'e', ARGV[i + 1])
    written[#written + 1] = '["' .. id .. '",' .. ARGV[i + 1] .. ']'
    last = number
  end
end
redis.call('SET', KEYS[2], string.format('%.0f', last), 'PX', ARGV[5])
if #written > 0 then
  local text = '{"topic":' .. ARGV[4] .. ',"entries":[' .. table.concat(written, ',') .. ']}'
  redis.call(ARGV[2], ARGV[1], struct.pack('<I4BBI2', #text + 4, ARGV[6], ARGV[7], 0) .. text)
end
return #written`,
)

/** The hub's part in log topics: writes entries, publishes them with the same script, and reads them again. */
export interface LogDesk {
  append(request: AppendRequest, done: (receipt: Receipt) => void): boolean
  /** Never rejects; an error is in the page. */
  replay(request: ReplayRequest): Promise<LogPage>
  /** A page that came from Redis, undefined when it is none. */
  read(value: Readonly<Record<string, unknown>>): LogPage | undefined
  flush(): void
  drain(deadlineMs: number): Promise<void>
}

export function createLogDesk(commands: RedisConnection, keys: Keys): LogDesk {
  const outbox = createOutbox(commands, sendBatch)
  // The tag gives the stream the channel's hash slot: one script on one master writes and publishes.
  const channel = (): string => keys.prefix('bus')
  const keyOf = (kind: string, id: string): string => keys.tagged('bus', channel(), `${kind}:${id}`)

  async function sendBatch(client: RedisClient, frames: readonly Buffer[]): Promise<void> {
    for (const frame of frames) {
      const request = parseSafely(frame.toString('utf8', 8)) as AppendRequest
      const { topic, publisher, maxLen, first, entries } = request
      await runScript(client, APPEND, [
        keyOf('log', topic),
        keyOf('last', `${publisher}:${topic}`),
        channel(),
        'nodes' in client ? 'SPUBLISH' : 'PUBLISH',
        maxLen,
        JSON.stringify(topic),
        REMEMBER_MS,
        FRAME_VERSION,
        Kind.log,
        ...entries.flatMap((entry, at) => [first + at, entry]),
      ])
    }
  }

  async function readPage({ topic, from }: ReplayRequest): Promise<LogPage> {
    const client = await commands.ready()
    const stream = keyOf('log', topic)
    const newest = await client.xrevrange(stream, '+', '-', 'COUNT', 1)
    const last = newest[0]?.[0]
    if (from === undefined) return { topic, entries: [], answer: { from, last } }
    const found = await client.xrange(stream, from, '+', 'COUNT', PAGE_ENTRIES)
    const entries: [string, LogEntry][] = []
    let characters = 0
    for (const [id, [, text = '']] of found) {
      characters += text.length
      if (entries.length > 0 && characters > MAX_PAGE_CHARACTERS) break
      entries.push([id, parseSafely(text) as LogEntry])
    }
    return { topic, entries, answer: { from, last } }
  }

  return {
    append(request, done) {
      const frame = encodeControl(Kind.append, request)
      if (request.receipt === 0) outbox.add(frame)
      else outbox.add(frame, (remote) => done({ local: 0, remote }))
      return true
    },
    replay: (request) =>
      readPage(request).catch((error: unknown) => ({
        topic: request.topic,
        entries: [],
        answer: { from: request.from, error: messageOf(error) },
      })),
    read: readLogPage,
    flush: outbox.flush,
    drain: outbox.drain,
  }
}

/** A page in a frame; whatever is malformed is left out, never trusted. */
export function readLogPage(value: Readonly<Record<string, unknown>>): LogPage | undefined {
  const { topic, entries, answer } = value
  if (typeof topic !== 'string' || !Array.isArray(entries)) return undefined
  const good = entries.filter((item: unknown): item is [string, LogEntry] => {
    const [id, entry] = Array.isArray(item) ? (item as unknown[]) : []
    if (typeof id !== 'string' || !LOG_ID.test(id) || !Array.isArray(entry) || entry.length < 4) return false
    return typeof entry[0] === 'string' && Number.isSafeInteger(entry[1]) && typeof entry[2] === 'number'
  })
  if (typeof answer !== 'object' || answer === null) return { topic, entries: good }
  return { topic, entries: good, answer: answer as NonNullable<LogPage['answer']> }
}

export const LOG_ID: RegExp = /^\d{1,16}-\d{1,16}$/
