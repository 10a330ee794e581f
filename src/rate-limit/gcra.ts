import { defineScript, type LuaScript } from '../redis/scripts.ts'
import { NOW_LUA } from './lua.ts'
import { type Algorithm, capacityOf } from './policy.ts'
import { scripted } from './scripted.ts'

/** A lease counts for this part of `per`, and no longer than a second: the bound grows by what is admitted in it. */
const LEASE_PARTS = 10

/**
 * The generic cell rate algorithm (ITU-T I.371) as the leaky bucket it is equal to: a level that drains at `limit` per
 * `per` and may reach `burst`. A level in units of cost, since times in microseconds since 1970 leave a double only
 * quarters: at 900,000 per second their rounding alone would admit a tenth too many.
 */
const FAST = `-- key: time of the last change in microseconds, level then, both doubles; after that until when the key is blocked, if it is.
-- per: microseconds. A millionth of a unit is forgiven, so that who waits as told is not refused by rounding.
  local rate = limit / per
  stored = redis.call('GET', key)
  local level, blocked, last, size = 0, 0, 0, stored and #stored
  if size == 16 or size == 24 then
    last, level = struct.unpack('>dd', stored)
    if not (level > 0 and level <= 4000000000) then level = 0 end
    -- A server clock that went back drains nothing until it goes on.
    if now > last then level = math.max(0, level - (now - last) * rate) end
    if size == 24 then blocked = struct.unpack('>d', stored, 17) end
    if not (blocked > now and blocked < now + 2700000000000) then blocked = 0 end
  end
  if size == 16 and op == '1' and level + cost <= burst then
    level = level + cost
    local reset = math.ceil(level / rate / 1000)
    redis.call('SET', key, struct.pack('>dd', now, level), 'PX', math.min(1000000000000, reset + 1))
    return { 1, math.floor(burst - level + 0.000001), 0, reset, now }
  end
`
const SLOW = `  local function save()
    local value, ttl = struct.pack('>dd', now, level), level / rate / 1000
    if blocked > 0 then
      value = value .. struct.pack('>d', blocked)
      ttl = math.max(ttl, (blocked - now) / 1000)
    end
    redis.call('SET', key, value, 'PX', math.min(1000000000000, math.ceil(ttl) + 1))
  end
  if op == 'r' then
    local full = (blocked > 0 or level + 1 > burst) and 1 or 0
    -- What has drained since then has been given back already, to whoever came.
    local given = math.min(cost, cost - (now - x) * rate)
    if given > 0 then
      level = math.max(0, level - given)
      save()
    end
    return { full }
  end
  if op == 'b' then
    blocked = math.max(blocked, now + x * 1000)
    save()
    return { 1 }
  end
  local fits, taken = blocked == 0 and level + cost <= burst + 0.000001, 0
  if op == '2' then taken = math.min(cost, 4000000000 - level)
  elseif fits and op == '1' then taken = cost
  elseif fits and op == 'l' then taken = math.max(cost, math.min(x, math.floor((burst - level) / y))) end
  local blockFor = op == 'l' and z or op == '1' and x or 0
  if taken > 0 then
    level = level + taken
    save()
  elseif not fits and blocked == 0 and blockFor > 0 then
    blocked = now + blockFor * 1000
    save()
  end
  local retry = fits and 0 or math.max(0, math.ceil((level + cost - burst) / rate / 1000))
  local reset, remaining = math.ceil(level / rate / 1000), math.max(0, math.floor(burst - level + 0.000001))
  if blocked > 0 then
    local wait = math.ceil((blocked - now) / 1000)
    retry, reset, remaining = math.max(retry, wait), math.max(reset, wait), 0
  end
  return { fits and (op == 'l' and taken or 1) or 0, remaining, retry, reset, now, math.min(1000, math.floor(per / ${LEASE_PARTS * 1_000})) }
`

export const GCRA_LUA: string = `local function gcra(key, limit, per, burst, cost, op, x, y, z)
${FAST}${SLOW}end
`

export const GCRA: LuaScript = defineScript(
  1,
  `-- KEYS[1] see below. ARGV[1] limit; ARGV[2] per; ARGV[3] burst; ARGV[4] cost; ARGV[5] op; ARGV[6..8] x, y, z. Result: see the ops.
${NOW_LUA}local key, limit, per, burst = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local cost, op = tonumber(ARGV[4]), ARGV[5]
${FAST}local x, y, z = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
${SLOW}`,
)

/** `burst + limit * t / per` in any interval `t`, over all workers and machines. */
export const gcra: Algorithm = {
  letter: 'g',
  connection: (ctx) => ctx.redis,
  ...scripted(GCRA, (policy, limit, cost) => [limit, policy.perMs * 1_000, capacityOf(policy, limit), cost]),
}
