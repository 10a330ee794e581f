import { DeadlineQueue } from '../core/deadline-queue.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'
import { defineScript, isUnknownScript, type LuaScript, runScript } from '../redis/scripts.ts'
import { Breaker } from './breaker.ts'
import { generationIn, HEADER_LENGTH, LUA_OFFSETS, MAX_META_LENGTH } from './entry.ts'
import { GENERATION, LUA_VERSIONS, type Versions } from './versions.ts'

/** What comes before an entry in a reply: whether it counts, or that this was not asked; its PTTL in 16 places. */
const COUNTS = '1'
const COUNTS_NOT = '0'
const NOT_ASKED = '-'
const TTL_PLACES = 16
const ENTRY_START = COUNTS.length + TTL_PLACES
/** Of longer ones Redis is spared the copy: they come behind what is said of them, not in one text with it. */
const IN_ONE_TEXT = 16_384

/** Lua: what is said of an entry, and the entry, in one text; a table with `err` for an error that is not about the key. */
function luaRead(maxBytes: number): string {
  return `local function read(key, counts)
  local bytes = redis.pcall('STRLEN', key)
  if type(bytes) == 'table' and string.sub(bytes.err, 1, 9) ~= 'WRONGTYPE' then return bytes end
  if type(bytes) ~= 'number' or bytes < ${HEADER_LENGTH} or bytes > ${maxBytes} then return false end
  local entry = redis.call('GET', key)
  local said = counts(entry) .. string.format('%0${TTL_PLACES}.0f', redis.call('PTTL', key))
  if bytes > ${IN_ONE_TEXT} then return {said, entry} end
  return said .. entry
end
local function readAll(count, counts)
  local found = {}
  for at = 1, count do
    found[at] = read(KEYS[at], counts)
    if type(found[at]) == 'table' and found[at].err then return found[at] end
  end
  -- An array of one takes the client twice as long to read.
  if count == 1 then return found[1] end
  return found
end`
}

function readScript(maxBytes: number): string {
  return `-- KEYS entries
-- Result: each entry with what is said of it, nil for what is not there or no entry; of several keys, a list of them
${luaRead(maxBytes)}
return readAll(#KEYS, function() return '${NOT_ASKED}' end)`
}

/** Which tags an entry has is not known before it is read, so their keys cannot be named: this is not for Cluster. */
function judgeScript(maxBytes: number): string {
  return `-- KEYS entries, and the generation; tags' versions have its name before their own
-- Result: as when they are only read; of each is said whether its generation and tags are those of now
${luaRead(maxBytes)}
${LUA_VERSIONS}
local prefix = KEYS[#KEYS]
local generation = versionOrNew(prefix)
return readAll(#KEYS - 1, function(entry)
  if string.sub(entry, ${LUA_OFFSETS.generation}) ~= generation then return '${COUNTS_NOT}' end
  local meta = string.byte(entry, ${HEADER_LENGTH + 1}) == 10 and string.match(entry, '^([^\\n]*)\\n', ${HEADER_LENGTH + 2})
    or string.sub(entry, ${HEADER_LENGTH + 1})
  if meta == '' then return '${COUNTS}' end
  if #meta > ${MAX_META_LENGTH} then return '${COUNTS_NOT}' end
  local ok, list = pcall(cjson.decode, meta)
  if not ok or type(list) ~= 'table' then return '${COUNTS_NOT}' end
  for at = 2, #list, 2 do
    local now = type(list[at]) == 'string' and version(prefix .. list[at])
    if not now or now ~= list[at + 1] then return '${COUNTS_NOT}' end
  end
  return '${COUNTS}'
end)`
}

/** After so many commands for one key each, with nothing under way, the next key is likely to be alone, too. */
const LONE_COMMANDS = 4

/** Keys of one command; more would keep Redis from others for too long. */
const MAX_BATCH = 64

/** What one read has found. */
export interface Reply {
  readonly text: string
  readonly ttlMs: number
  /** Whether it counts, where Redis has been asked for that too. */
  readonly current: boolean | undefined
  /** Where it has been asked for. */
  readonly generation: string | undefined
}

interface Read {
  readonly key: string
  resolve(reply: Reply | undefined): void
  reject(error: Error): void
}

/** An entry behind what is said of it. */
type Told = string | readonly [said: string, entry: string] | null

export interface FarOptions {
  readonly timeoutMs: number
  readonly maxBytes: number
}

/**
 * L2: what the cache does when Redis is away, in one place. Every call is answered within the timeout, by a result or
 * by `ERR_AS_ONE_REDIS_UNAVAILABLE`; nothing is tried twice, since it may have happened.
 */
export class FarCache {
  /** What is longer counts as nothing. */
  readonly maxBytes: number
  readonly #connection: RedisConnection
  readonly #versions: Versions
  readonly #timeoutMs: number
  readonly #reading: Scripts
  readonly #judging: Scripts
  readonly #deadlines: DeadlineQueue
  readonly #breaker = new Breaker()
  readonly #stopListening: () => void
  #batch: Read[] = []
  /** Commands of reads that have no answer yet; those in a row that had one key and nothing beside them. */
  #underWay = 0
  #lone = 0
  #wasUp = false

  constructor(connection: RedisConnection, versions: Versions, { timeoutMs, maxBytes }: FarOptions) {
    this.maxBytes = maxBytes
    this.#connection = connection
    this.#versions = versions
    this.#timeoutMs = timeoutMs
    this.#reading = new Scripts(readScript(maxBytes))
    this.#judging = new Scripts(judgeScript(maxBytes))
    this.#deadlines = new DeadlineQueue(timeoutMs)
    this.#stopListening = connection.onChange((state) => state === 'up' && this.#breaker.succeeded())
  }

  /**
   * An entry and its TTL: a copy must not outlive what it was copied from. All reads of one tick are one command; where
   * one comes after the other, each leaves at once.
   */
  entry(key: string, resolve: Read['resolve'], reject: Read['reject']): void {
    const read = { key, resolve, reject }
    if (this.#underWay > 0) this.#lone = 0
    if (this.#lone >= LONE_COMMANDS && this.#batch.length === 0) this.#ask([read])
    else if (this.#batch.push(read) === 1) process.nextTick(this.#flush)
  }

  /** Before several entries are asked for at once: the first of them is not alone. */
  together(): void {
    this.#lone = 0
  }

  /** For what has another way out: once Redis has been there, its absence is told at once. */
  read<T>(command: (client: RedisClient, stillWanted: () => void) => Promise<T>): Promise<T> {
    const away = this.#isAway()
    return away ? Promise.reject(away) : this.write(command)
  }

  #isAway(): SharedStateError | undefined {
    if (this.#wasUp && !this.#connection.now) return this.#explain(new Error('not connected'))
    if (this.#breaker.allows()) return undefined
    return this.#explain(new Error('it did not answer a moment ago'))
  }

  /**
   * For what is worth the wait. A command of several steps asks `stillWanted` before each further one: a write that
   * has been reported as failed must not overtake one that came after it.
   *
   * @throws SharedStateError from `stillWanted`, when the time is over
   */
  write<T>(command: (client: RedisClient, stillWanted: () => void) => Promise<T>): Promise<T> {
    const timeoutMs = this.#timeoutMs
    return new Promise<T>((resolve, reject) => {
      let tooLate: SharedStateError | undefined
      const stillWanted = (): void => {
        if (tooLate) throw tooLate
      }
      const inTime = this.#deadlines.add(() => {
        tooLate = this.#timedOut()
        reject(tooLate)
      })
      const begin = (client: RedisClient): Promise<T> => {
        stillWanted()
        return command(client, stillWanted)
      }
      const client = this.#connection.now
      if (client) this.#wasUp = true
      // The connection's own error says why, so its deadline comes a little before ours.
      const soon = Math.max(1, timeoutMs - 20)
      const answer = client ? begin(client) : this.#connection.ready({ timeoutMs: soon }).then(begin)
      answer.then(
        (reply) => {
          inTime()
          this.#breaker.succeeded()
          resolve(reply)
        },
        (error: unknown) => {
          inTime()
          if (!tooLate) reject(this.#failed(error))
        },
      )
    })
  }

  #timedOut(): SharedStateError {
    this.#breaker.timedOut()
    return this.#explain(new Error(`no answer within ${this.#timeoutMs} ms`))
  }

  #failed(error: unknown): SharedStateError {
    if (error instanceof Error && error.name === 'ReplyError') this.#breaker.succeeded()
    else this.#breaker.failed()
    return this.#explain(error)
  }

  close(): void {
    this.#stopListening()
    this.#deadlines.close()
  }

  readonly #flush = (): void => {
    const reads = this.#batch
    this.#batch = []
    this.#lone = reads.length === 1 && this.#underWay === 0 ? this.#lone + 1 : 0
    for (let from = 0; from < reads.length; from += MAX_BATCH) {
      const part = reads.length <= MAX_BATCH ? reads : reads.slice(from, from + MAX_BATCH)
      this.#ask(part)
    }
  }

  /** As `read`, with one promise: most of what a cache does comes this way. */
  #ask(reads: readonly Read[]): void {
    const client = this.#connection.now
    if (!client) {
      const send = (connected: RedisClient) =>
        new Promise<void>((sent, failed) => this.#send(connected, reads, sent, failed))
      this.read(send).catch((error) => fail(reads, error))
      return
    }
    const away = this.#isAway()
    if (away) {
      fail(reads, away)
      return
    }
    this.#wasUp = true
    let late = false
    const inTime = this.#deadlines.add(() => {
      late = true
      fail(reads, this.#timedOut())
    })
    const sent = (): void => {
      inTime()
      this.#breaker.succeeded()
    }
    this.#send(client, reads, sent, (error) => {
      inTime()
      if (!late) fail(reads, this.#failed(error))
    })
  }

  /** Never rejects. */
  async #send(
    client: RedisClient,
    reads: readonly Read[],
    sent: () => void,
    failed: (error: unknown) => void,
  ): Promise<void> {
    const versions = this.#versions
    this.#underWay += 1
    try {
      const isKnown = versions.now(GENERATION) !== undefined
      if (client.isCluster) {
        await this.#sendEach(client, reads, isKnown)
        sent()
        return
      }
      const keys = reads.map(({ key }) => key)
      let keep: ((generation: string) => void) | undefined
      if (!isKnown) {
        keys.push(versions.keyOf(GENERATION))
        keep = versions.beginAsk(GENERATION)
      }
      const script = (keep ? this.#judging : this.#reading).for(keys.length)
      let found: unknown
      try {
        found = await client.evalsha(script.sha, script.keys, ...keys)
      } catch (error) {
        if (!isUnknownScript(error)) throw error
        found = await client.eval(script.lua, script.keys, ...keys)
      }
      for (let at = 0; at < reads.length; at++) {
        const told = reads.length === 1 ? (found as Told) : (found as readonly Told[])[at]
        const reply = told ? replyOf(told) : undefined
        if (keep && reply?.current) keep(generationIn(reply.text))
        ;(reads[at] as Read).resolve(reply)
      }
      sent()
    } catch (error) {
      failed(error)
    } finally {
      this.#underWay -= 1
    }
  }

  /** A Cluster takes no command for keys of different slots. */
  async #sendEach(client: RedisClient, reads: readonly Read[], isKnown: boolean): Promise<void> {
    const script = this.#reading.for(1)
    const [generation, ...found] = await Promise.all([
      isKnown ? undefined : this.#versions.ask(client, GENERATION),
      ...reads.map(({ key }) => runScript<Told>(client, script, [key])),
    ])
    for (let at = 0; at < reads.length; at++) {
      const told = found[at]
      ;(reads[at] as Read).resolve(told ? replyOf(told, generation) : undefined)
    }
  }

  /** Mistakes in the settings and a closed instance stay what they are; all else is Redis being away. */
  #explain(error: unknown): SharedStateError {
    if (error instanceof SharedStateError && error.code !== 'ERR_AS_ONE_REDIS_UNAVAILABLE') return error
    const { label } = this.#connection
    const what = messageOf(error)
    return new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      `the cache is unavailable: ${what.includes(label) ? what : `Redis at ${label}: ${what}`}`,
      { cause: error },
    )
  }
}

function fail(reads: readonly Read[], error: Error): void {
  for (const { reject } of reads) reject(error)
}

function replyOf(told: NonNullable<Told>, generation?: string): Reply {
  const [said, text] = typeof told === 'string' ? [told, told.slice(ENTRY_START)] : told
  const current = said.startsWith(NOT_ASKED) ? undefined : said.startsWith(COUNTS)
  return { text, ttlMs: Number(said.slice(COUNTS.length, ENTRY_START)), current, generation }
}

/** One script, for any number of keys. */
class Scripts {
  readonly #script: LuaScript
  readonly #byCount: LuaScript[] = []

  constructor(lua: string) {
    this.#script = defineScript(1, lua)
  }

  for(keys: number): LuaScript {
    this.#byCount[keys] ??= { ...this.#script, keys }
    return this.#byCount[keys]
  }
}

export function isUnavailable(error: unknown): boolean {
  return error instanceof SharedStateError && error.code === 'ERR_AS_ONE_REDIS_UNAVAILABLE'
}
