import { defineScript, type LuaScript } from '../redis/scripts.ts'
import { NOW_LUA } from './lua.ts'
import type { Algorithm, RateLimitPolicy } from './policy.ts'
import { scripted } from './scripted.ts'

/** Of a window; capacity returns in steps of one. */
export const SUB_WINDOWS = 10

/**
 * Counts per sub-window by the server's clock, with a shorter way for a sub-window that has been charged before. The newest eleven are summed: the one under way, the nine before it, and
 * the oldest, of which only a part still lies in the window, as a whole. So any interval of one window lies in what is
 * summed, also when a grant is spent at any later time in the sub-window it was counted in.
 */
const fast = (
  answer: string,
): string => `-- key: number of the newest sub-window as a double, the sum, then eleven 32-bit counts, newest first; after that, as a
-- double, until when the key is blocked, if it is. width: of a sub-window, in microseconds.
  local current = math.floor(now / width)
  stored = redis.call('GET', key)
  local size = stored and #stored
  if size == 56 and op == '1' then
    local newest, used, first = struct.unpack('>dI4I4', stored)
    -- Whoever wrote this sub-window set a TTL that ends with it: it stands.
    if newest == current and used + cost <= limit then
      redis.call('SETRANGE', key, '8', struct.pack('>I4I4', used + cost, first + cost))
      local remaining, reset = limit - used - cost, math.ceil(((current + 11) * width - now) / 1000)
      return ${answer}
    end
  end
`
const SLOW = `  local counts, blocked = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, 0
  if size == 56 or size == 64 then
    local newest = math.floor((struct.unpack('>d', stored)))
    -- A server clock that went back by less than a window goes on where it was; by more, it forgets, as after a step forward.
    if newest > current and newest <= current + 11 then current = newest end
    local shift = current - newest
    if shift >= 0 and shift < 11 then
      local old = { struct.unpack('>I4I4I4I4I4I4I4I4I4I4I4', stored, 13) }
      for index = 1, 11 - shift do counts[index + shift] = old[index] end
    end
    if size == 64 then blocked = struct.unpack('>d', stored, 57) end
    if not (blocked > now and blocked < now + 2700000000000) then blocked = 0 end
  end
  local used = 0
  for index = 1, 11 do used = used + counts[index] end
  -- A count leaves the sum when the eleventh sub-window after its own begins.
  local function untilGone(age) return math.ceil(((current - age + 11) * width - now) / 1000) end
  local function save()
    local value, ttl = struct.pack('>dI4I4I4I4I4I4I4I4I4I4I4I4', current, used, unpack(counts)), untilGone(0)
    if blocked > 0 then
      value = value .. struct.pack('>d', blocked)
      ttl = math.max(ttl, math.ceil((blocked - now) / 1000))
    end
    redis.call('SET', key, value, 'PX', ttl + 1)
  end
  if op == 'r' then
    local age, full = current - x, (blocked > 0 or used >= limit) and 1 or 0
    if age >= 0 and age < 11 then
      local given = math.min(cost, counts[age + 1])
      counts[age + 1], used = counts[age + 1] - given, used - given
      save()
    end
    return { full }
  end
  if op == 'b' then
    blocked = math.max(blocked, now + x * 1000)
    save()
    return { 1 }
  end
  local fits, taken = blocked == 0 and used + cost <= limit, 0
  if op == '2' then taken = math.min(cost, 4000000000 - used)
  elseif fits and op == '1' then taken = cost
  elseif fits and op == 'l' then taken = math.max(cost, math.min(x, math.floor((limit - used) / y))) end
  local blockFor = op == 'l' and z or op == '1' and x or 0
  if taken > 0 then
    counts[1], used = counts[1] + taken, used + taken
    save()
  elseif not fits and blocked == 0 and blockFor > 0 then
    blocked = now + blockFor * 1000
    save()
  end
  local retry, reset, left = 0, 0, used
  for age = 10, 0, -1 do
    if not fits and left + cost > limit then retry = untilGone(age) end
    left = left - counts[age + 1]
    if counts[age + 1] > 0 then reset = untilGone(age) end
  end
  local remaining = math.max(0, limit - used)
  if blocked > 0 then
    local wait = math.ceil((blocked - now) / 1000)
    retry, reset, remaining = math.max(retry, wait), math.max(reset, wait), 0
  end
  return { fits and (op == 'l' and taken or 1) or 0, remaining, retry, reset, current, math.floor(((current + 1) * width - now) / 1000) }
`

export const SLIDING_LUA: string = `local function sliding(key, limit, width, cost, op, x, y, z)
${fast('{ 1, remaining, 0, reset, current }')}${SLOW}end
`

export const SLIDING_WINDOW: LuaScript = defineScript(
  1,
  `-- KEYS[1] see below. ARGV[1] limit; ARGV[2] width; ARGV[3] cost; ARGV[4] op; ARGV[5..7] x, y, z.
-- Result: see the ops; of most charges that fit a text, 'remaining reset at', which both sides handle faster than a list
${NOW_LUA}local key, limit, width, cost, op = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
${fast("string.format('%d %d %d', remaining, reset, current)")}local x, y, z = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
${SLOW}`,
)

/** Microseconds. */
export function widthOf({ perMs }: RateLimitPolicy): number {
  return (perMs * 1_000) / SUB_WINDOWS
}

/** `limit` in any interval of `per`, over all workers and machines. */
export const slidingWindow: Algorithm = {
  letter: 's',
  connection: (ctx) => ctx.redis,
  ...scripted(SLIDING_WINDOW, (policy, limit, cost) => [limit, widthOf(policy), cost]),
}
