import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'
import type { Freshness } from './freshness.ts'

const GENERATION_TTL_MS = 30 * 86_400_000
/** Asked at least this often, so that its TTL is renewed while the cache is in use. */
const ASK_AGAIN_MS = 86_400_000

const ASK: LuaScript = defineScript(
  1,
  `-- KEYS[1] generation; ARGV[1] its TTL in ms. Result: the generation; a missing one is made: its entries are lost
local known = redis.pcall('GET', KEYS[1])
if type(known) == 'string' and string.match(known, '^%d+$') and #known == 16 then
  if redis.call('PTTL', KEYS[1]) < ARGV[1] / 2 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
  return known
end
local time = redis.call('TIME')
local made = string.format('%016.0f', time[1] * 1000000 + time[2])
redis.call('SET', KEYS[1], made, 'PX', ARGV[1])
return made`,
)

const ADVANCE: LuaScript = defineScript(
  1,
  `-- KEYS[1] generation; ARGV[1] its TTL in ms. Result: the next generation, later than the last whatever the clock says
local known = redis.pcall('GET', KEYS[1])
local last = type(known) == 'string' and tonumber(known) or 0
local time = redis.call('TIME')
local made = string.format('%016.0f', math.max(time[1] * 1000000 + time[2], last + 1))
redis.call('SET', KEYS[1], made, 'PX', ARGV[1])
return made`,
)

/**
 * Which entries count: those that carry the current generation. It is a key like any other, so that everybody hears
 * of a `clear()` as of any write, and a copy of it is as good as the proof that nothing has been missed.
 */
export class Generation {
  readonly #fresh: Freshness
  #known: string | undefined
  #since = 0
  /** Counts what may have changed it, to tell whether an answer is still worth keeping. */
  #changes = 0
  #advancing = 0

  constructor(fresh: Freshness) {
    this.#fresh = fresh
  }

  /** Undefined when it has to be asked for. */
  now(): string | undefined {
    if (this.#known === undefined || !this.#fresh.isProven()) return undefined
    return performance.now() - this.#since < ASK_AGAIN_MS ? this.#known : undefined
  }

  async ask(client: RedisClient, key: string): Promise<string> {
    const changes = this.#changes
    const mayKeep = this.#fresh.synced && this.#advancing === 0
    const asked = await runScript<string>(client, ASK, [key, GENERATION_TTL_MS])
    if (mayKeep && changes === this.#changes) {
      this.#known = asked
      this.#since = performance.now()
    }
    return asked
  }

  async advance(client: RedisClient, key: string): Promise<void> {
    await runScript(client, ADVANCE, [key, GENERATION_TTL_MS])
  }

  /** Around an own `advance`: no answer that is under way may be kept. */
  beginAdvance(): void {
    this.#advancing += 1
    this.changed()
  }

  endAdvance(): void {
    this.#advancing -= 1
    this.changed()
  }

  changed(): void {
    this.#changes += 1
    this.#known = undefined
  }
}
