import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'
import { GCRA_LUA } from './gcra.ts'
import { NOW_LUA, OPS } from './lua.ts'
import { type Charged, capacityOf, type RateLimitPolicy } from './policy.ts'
import { chargedOf } from './scripted.ts'
import { SLIDING_LUA, widthOf } from './sliding-window.ts'

/** As in sliding-window.ts, for all of them together: one look, and no write before it is known that all fit. */
const FAST = `if ARGV[1] == '1' then
  local argv, cost, flat, written = ARGV, ARGV[2] + 0, {}, {}
  local held = redis.call('MGET', unpack(KEYS))
  for index = 1, #KEYS do
    local at, part, value = 5 * index - 2, 5 * index - 5, held[index]
    if argv[at] ~= 's' or not value or #value ~= 56 then written = nil break end
    local limit, width = argv[at + 1] + 0, argv[at + 2] + 0
    local current = math.floor(now / width)
    local newest, used, first = struct.unpack('>dI4I4', value)
    used = used + cost
    if newest ~= current or used > limit then written = nil break end
    written[index] = struct.pack('>dI4I4', current, used, first + cost)
    flat[part + 1], flat[part + 2], flat[part + 3] = 1, limit - used, 0
    flat[part + 4], flat[part + 5] = math.ceil(((current + 11) * width - now) / 1000), current
  end
  if written then
    for index = 1, #KEYS do redis.call('SETRANGE', KEYS[index], 0, written[index]) end
    return flat
  end
end
`

const SEVERAL_LUA = `-- KEYS one per policy, all of one hash tag. ARGV[1] op: look, charge or force; ARGV[2] cost; then for each policy
-- its letter, limit, span (width of a sub-window, or per), burst, ms to block for. Result: five numbers for each, see the ops.
${NOW_LUA}${FAST}${SLIDING_LUA}${GCRA_LUA}
local cost = tonumber(ARGV[2])
local function ask(index, op)
  local at = 5 * index - 2
  local limit, span, burst, blockFor = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  if ARGV[at] == 's' then return sliding(KEYS[index], limit, span, cost, op, blockFor) end
  return gcra(KEYS[index], limit, span, burst, cost, op, blockFor)
end
local op, results, before, refused = ARGV[1], {}, {}, nil
for index = 1, #KEYS do
  results[index] = ask(index, refused and op == '1' and '0' or op)
  before[index] = stored
  if op == '1' and not refused and results[index][1] == 0 then
    refused = index
    -- All or nothing: those before it get back what they held; a longer TTL does no harm.
    for charged = 1, index - 1 do
      if before[charged] then redis.call('SET', KEYS[charged], before[charged], 'KEEPTTL') else redis.call('DEL', KEYS[charged]) end
      results[charged] = ask(charged, '0')
    end
  end
end
local flat = {}
for index = 1, #KEYS do
  for part = 1, 5 do flat[5 * index - 5 + part] = results[index][part] end
end
return flat`

const scripts: LuaScript[] = []

/** A script is declared with its number of keys. */
function scriptFor(keys: number): LuaScript {
  scripts[keys] ??= defineScript(keys, SEVERAL_LUA)
  return scripts[keys]
}

/** One decision over several policies: all are charged, or none is. */
export async function decideSeveral(
  client: RedisClient,
  keys: readonly string[],
  policies: readonly RateLimitPolicy[],
  { op, cost, limits, blockMs }: SeveralQuestion,
): Promise<readonly Charged[]> {
  const call: (string | number)[] = [...keys, OPS[op], cost]
  policies.forEach((policy, index) => {
    const limit = limits[index] as number
    const isSliding = policy.algorithm === 'sliding-window'
    const span = isSliding ? widthOf(policy) : policy.perMs * 1_000
    call.push(isSliding ? 's' : 'g', limit, span, capacityOf(policy, limit), blockMs)
  })
  const reply = await runScript<readonly number[]>(client, scriptFor(keys.length), call)
  return policies.map((_, index) => chargedOf(reply, 5 * index))
}

export interface SeveralQuestion {
  readonly op: 'look' | 'charge' | 'force'
  readonly cost: number
  readonly limits: readonly number[]
  readonly blockMs: number
}
