import { randomBytes } from 'node:crypto'
import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'
import type { LimitRedis } from './availability.ts'
import type { Verdict } from './policy.ts'

/** When to try again is not known: whoever is in flight decides. */
const RETRY_MS = 1_000

export const SLOTS: LuaScript = defineScript(
  1,
  `-- KEYS[1] hash: per process how many it holds, and until when (server ms) that counts without a heartbeat, both doubles
-- ARGV[1] op: take, look, free, beat (still there), say (that is how many); ARGV[2] ttl in ms; ARGV[3] limit
-- ARGV[4] cost, for beat and say the number held; ARGV[5] the process. Result: { 1 when it fits else 0, remaining }
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local op, ttl, limit, cost, own = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local all, used, mine = redis.call('HGETALL', KEYS[1]), 0, 0
for index = 1, #all, 2 do
  local count, ends = 0, 0
  if #all[index + 1] == 16 then count, ends = struct.unpack('>dd', all[index + 1]) end
  if count > 0 and ends > now and ends <= now + 2700000000 then
    used = used + count
    if all[index] == own then mine = count end
  else redis.call('HDEL', KEYS[1], all[index]) end
end
local function hold(count)
  if count > 0 then
    redis.call('HSET', KEYS[1], own, struct.pack('>dd', count, now + ttl))
    redis.call('PEXPIRE', KEYS[1], ttl)
  else redis.call('HDEL', KEYS[1], own) end
  used = used - mine + count
end
local fits = used + cost <= limit
if op == 'take' and fits then hold(mine + cost)
elseif op == 'free' then hold(math.max(0, mine - cost))
elseif op == 'beat' then hold(mine > 0 and mine or cost)
elseif op == 'say' then hold(cost) end
return { fits and 1 or 0, math.max(0, limit - used) }`,
)

/** What this process holds of a key, under one name in Redis. */
interface Holding {
  readonly own: string
  held: number
  /** Asked for and not answered yet. */
  pending: number
  /** A reply was lost: Redis may count more or less than is held. */
  doubtful: boolean
}

/** A place in flight. */
export interface Slot {
  readonly verdict: Verdict
  free(): void
}

/**
 * Places in flight. What a process holds counts as long as its heartbeat comes, so those of a killed one come back.
 * After a lost reply it goes on under a new name, and tells the true number under the old one as soon as nothing is on
 * its way there: a number told while something is could erase what has just been taken.
 */
export class Slots {
  readonly #redis: LimitRedis
  readonly #ttlMs: number
  readonly #keyOf: (id: string) => string
  readonly #process = randomBytes(9).toString('base64url')
  readonly #keys = new Map<string, Holding[]>()
  readonly #local = new Map<string, number>()
  #names = 0
  #timer: NodeJS.Timeout | undefined

  constructor(redis: LimitRedis, ttlMs: number, keyOf: (id: string) => string) {
    this.#redis = redis
    this.#ttlMs = ttlMs
    this.#keyOf = keyOf
  }

  /** Undefined when Redis is away. */
  async take(id: string, limit: number, cost: number): Promise<Slot | Verdict | undefined> {
    const holding = this.#holdingOf(id)
    let given: Slot | undefined
    let waits = true
    const reply = await this.#redis.ask(this.#keyOf(id), (client) => {
      holding.pending += cost
      const taking = this.#run(client, id, 'take', limit, cost, holding)
      const taken = taking.then(
        ([fits]) => {
          holding.pending -= cost
          if (fits !== 1) return this.#settle(id, holding)
          holding.held += cost
          this.#beatLater()
          const free = this.#freeOnce(id, holding, limit, cost)
          if (!waits)
            free() // nobody knows of it any more
          else given = { verdict: admitted(0), free }
        },
        () => {
          holding.pending -= cost
          this.#doubt(id, holding)
        },
      )
      return taken.then(() => taking)
    })
    waits = false
    if (reply === undefined) return undefined
    const [, remaining] = reply
    return given ? { ...given, verdict: admitted(remaining) } : refused(remaining)
  }

  async look(id: string, limit: number, cost: number): Promise<Verdict | undefined> {
    const reply = await this.#redis.ask(this.#keyOf(id), (client) =>
      this.#run(client, id, 'look', limit, cost, { own: '' }),
    )
    return reply && (reply[0] === 1 ? admitted(reply[1]) : refused(reply[1]))
  }

  /** Counts what this process has in flight. */
  takeAlone(id: string, share: number, cost: number, take: boolean): Slot | Verdict {
    const local = this.#local.get(id) ?? 0
    const held = (this.#keys.get(id) ?? []).reduce((sum, each) => sum + each.held, local)
    if (held + cost > share) return refused(Math.max(0, share - held))
    if (!take) return admitted(share - held)
    this.#local.set(id, local + cost)
    let freed = false
    const free = (): void => {
      if (freed) return
      freed = true
      const left = (this.#local.get(id) ?? 0) - cost
      if (left > 0) this.#local.set(id, left)
      else this.#local.delete(id)
    }
    return { verdict: admitted(share - held - cost), free }
  }

  forget(id: string): void {
    this.#keys.delete(id)
    this.#local.delete(id)
  }

  /** Others need not wait for our heartbeat to fail to come. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    const holdings = [...this.#keys].flatMap(([id, all]) => all.map((holding) => ({ id, holding })))
    this.#keys.clear()
    await Promise.all(holdings.map(({ id, holding }) => this.#tell(id, 'say', { ...holding, held: 0 })))
  }

  #freeOnce(id: string, holding: Holding, limit: number, cost: number): () => void {
    let freed = false
    return () => {
      if (freed) return
      freed = true
      holding.held -= cost
      this.#redis
        .ask(this.#keyOf(id), (client) => this.#run(client, id, 'free', limit, cost, holding))
        .then(
          (reply) => (reply === undefined ? this.#doubt(id, holding) : this.#settle(id, holding)),
          () => this.#doubt(id, holding), // closed meanwhile: the heartbeat fails to come
        )
    }
  }

  #holdingOf(id: string): Holding {
    const all = this.#keys.get(id) ?? []
    this.#keys.set(id, all)
    let current = all.at(-1)
    if (current === undefined || current.doubtful) {
      current = { own: `${this.#process}.${this.#names++}`, held: 0, pending: 0, doubtful: false }
      all.push(current)
    }
    return current
  }

  #doubt(id: string, holding: Holding): void {
    holding.doubtful = true
    if (this.#keys.get(id)?.includes(holding)) this.#beatLater()
  }

  /** Forgets a name that holds nothing. */
  #settle(id: string, holding: Holding): void {
    if (holding.held > 0 || holding.pending > 0 || holding.doubtful) return
    const others = (this.#keys.get(id) ?? []).filter((each) => each !== holding)
    if (others.length > 0) this.#keys.set(id, others)
    else this.#keys.delete(id)
  }

  #beatLater(): void {
    this.#timer ??= setInterval(() => this.#beat(), this.#ttlMs / 3).unref()
  }

  #beat(): void {
    if (this.#keys.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
    }
    for (const [id, all] of this.#keys) {
      for (const holding of all) {
        const certain = holding.doubtful && holding.pending === 0
        if (holding.held > 0 || certain) void this.#tell(id, certain ? 'say' : 'beat', holding)
      }
    }
  }

  async #tell(id: string, op: 'say' | 'beat', holding: Holding): Promise<void> {
    const reply = await this.#redis
      .ask(this.#keyOf(id), (client) => this.#run(client, id, op, 0, holding.held, holding))
      .catch(() => undefined) // closed
    if (reply === undefined || op === 'beat') return
    holding.doubtful = false
    this.#settle(id, holding)
  }

  #run(
    client: RedisClient,
    id: string,
    op: string,
    limit: number,
    cost: number,
    { own }: { readonly own: string },
  ): Promise<[number, number]> {
    return runScript(client, SLOTS, [this.#keyOf(id), op, this.#ttlMs, limit, cost, own])
  }
}

const admitted = (remaining: number): Verdict => ({ allowed: true, remaining, retryAfterMs: 0, resetMs: 0 })
const refused = (remaining: number): Verdict => ({
  allowed: false,
  remaining,
  retryAfterMs: RETRY_MS,
  resetMs: RETRY_MS,
})
