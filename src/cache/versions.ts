import { performance } from 'node:perf_hooks' // the global one is found by a getter at every use
import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'
import { type Entry, ownText } from './entry.ts'
import type { Freshness } from './freshness.ts'

const VERSION_TTL_MS = 30 * 86_400_000
/** Asked at least this often, so that its TTL is renewed while it is in use. */
const ASK_AGAIN_MS = 86_400_000
/** Tags whose versions are remembered; of others Redis is asked. */
const MAX_REMEMBERED = 10_000

/** Lua: the version under `key`, false or a new one when there is none. It lives for 30 days from its last use. */
export const LUA_VERSIONS: string = `local function version(key)
  local known = redis.pcall('GET', key)
  if type(known) ~= 'string' or #known ~= 16 or not string.match(known, '^%d+$') then return false end
  if redis.call('PTTL', key) < ${VERSION_TTL_MS / 2} then redis.call('PEXPIRE', key, ${VERSION_TTL_MS}) end
  return known
end
local function versionOrNew(key)
  local known = version(key)
  if known then return known end
  local time = redis.call('TIME')
  local made = string.format('%016.0f', time[1] * 1000000 + time[2])
  redis.call('SET', key, made, 'PX', ${VERSION_TTL_MS})
  return made
end`

const ASK: LuaScript = defineScript(
  1,
  `-- KEYS[1] version. Result: the version; a missing one is made: its entries are lost
${LUA_VERSIONS}
return versionOrNew(KEYS[1])`,
)

const ADVANCE: LuaScript = defineScript(
  1,
  `-- KEYS[1] version; ARGV[1] its TTL in ms. Result: the next version, later than the last whatever the clock says
local known = redis.pcall('GET', KEYS[1])
local last = type(known) == 'string' and tonumber(known) or 0
local time = redis.call('TIME')
local made = string.format('%016.0f', math.max(time[1] * 1000000 + time[2], last + 1))
redis.call('SET', KEYS[1], made, 'PX', ARGV[1])
return made`,
)

/** The name of the version that every entry of the cache carries. */
export const GENERATION = ''

interface Remembered {
  readonly version: string
  readonly since: number
}

/**
 * Which entries count: those that carry the current generation, and of each of their tags the current version. These
 * are keys like any other, so that everybody hears of a `clear()` or `deleteByTag()` as of any write, and a copy of
 * one is as good as the proof that nothing has been missed.
 */
export class Versions {
  readonly #fresh: Freshness
  /** Of a version: that of the generation, with the name behind it. */
  readonly keyOf: (name: string) => string
  readonly #remembered = new Map<string, Remembered>()
  readonly #advancing = new Map<string, number>()
  /** Counts what may have changed any of them, to tell whether an answer is still worth keeping. */
  #changes = 0

  constructor(fresh: Freshness, keyOf: (name: string) => string) {
    this.#fresh = fresh
    this.keyOf = keyOf
  }

  /** Undefined when it has to be asked for. */
  now(name: string, at: number = performance.now()): string | undefined {
    const known = this.#remembered.get(name)
    if (known === undefined || !this.#fresh.isProven(at)) return undefined
    return at - known.since < ASK_AGAIN_MS ? known.version : undefined
  }

  async ask(client: RedisClient, name: string): Promise<string> {
    const keep = this.beginAsk(name)
    const version = await runScript<string>(client, ASK, [this.keyOf(name)])
    keep(version)
    return version
  }

  /** Before a question is sent: to be called with the answer, which is remembered if nothing has been heard meanwhile. */
  beginAsk(name: string): (version: string) => void {
    if (!this.#fresh.synced || this.#advancing.has(name)) return forget
    const changes = this.#changes
    return (version) => {
      if (changes === this.#changes) this.#remember(name, ownText(version))
    }
  }

  /** Names and current versions in turn. */
  async askAll(client: RedisClient, names: readonly string[]): Promise<string[]> {
    const versions = await Promise.all(names.map((name) => this.now(name) ?? this.ask(client, name)))
    return names.flatMap((name, at) => [name, versions[at] as string])
  }

  async advance(client: RedisClient, name: string): Promise<void> {
    await runScript(client, ADVANCE, [this.keyOf(name), VERSION_TTL_MS])
  }

  /** Whether an entry still counts, as far as is known here: undefined when Redis has to be asked. */
  knows({ generation, tags }: Entry): true | undefined {
    const at = performance.now()
    if (this.now(GENERATION, at) !== generation) return undefined
    for (let i = 0; i < tags.length; i += 2)
      if (this.now(tags[i] as string, at) !== tags[i + 1]) return undefined
    return true
  }

  /**
   * Whether an entry still counts, by Redis' own word: where it differs from what is known here, it may be the entry
   * that is old, or we who have not heard yet. `generation`: as just asked for.
   */
  async confirm(
    client: RedisClient,
    { generation, tags, tagNames }: Entry,
    asked?: string,
  ): Promise<boolean> {
    const names = [GENERATION, ...tagNames]
    const wanted = [generation, ...tags.filter((_, at) => at % 2 === 1)]
    const versions = await Promise.all(
      names.map((name, at) => {
        if (name === GENERATION && asked !== undefined) return asked
        return this.now(name) === wanted[at] ? wanted[at] : this.ask(client, name)
      }),
    )
    return versions.every((version, at) => version === wanted[at])
  }

  /** Around an own `advance`: no answer that is under way may be kept. */
  beginAdvance(name: string): void {
    this.#advancing.set(name, (this.#advancing.get(name) ?? 0) + 1)
    this.changed(name)
  }

  endAdvance(name: string): void {
    const left = (this.#advancing.get(name) ?? 0) - 1
    if (left > 0) this.#advancing.set(name, left)
    else this.#advancing.delete(name)
    this.changed(name)
  }

  changed(name: string): void {
    this.#changes += 1
    this.#remembered.delete(name)
  }

  allChanged(): void {
    this.#changes += 1
    this.#remembered.clear()
  }

  #remember(name: string, version: string): void {
    this.#remembered.delete(name)
    this.#remembered.set(name, { version, since: performance.now() })
    if (this.#remembered.size <= MAX_REMEMBERED) return
    for (const oldest of this.#remembered.keys()) {
      if (oldest === GENERATION) continue
      this.#remembered.delete(oldest)
      return
    }
  }
}

function forget(): void {}
