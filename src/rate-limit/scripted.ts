import type { RedisClient } from '../redis/client.ts'
import { type LuaScript, runScript } from '../redis/scripts.ts'
import { OPS } from './lua.ts'
import type { Algorithm, Charged, Grant, RateLimitPolicy } from './policy.ts'

/** `{ fits or granted, remaining, retry ms, reset ms, at, valid ms }` */
type Reply = readonly number[]

/** How a script of ours is told a policy; the op, x, y and z follow. */
export type PolicyArgs = (
  policy: RateLimitPolicy,
  limit: number,
  cost: number,
) => readonly (string | number)[]

/** An algorithm that is one script which knows all of lua.ts' ops. */
export function scripted(script: LuaScript, args: PolicyArgs): Omit<Algorithm, 'letter' | 'connection'> {
  const run = <Answer = Reply>(
    client: RedisClient,
    key: string,
    policy: RateLimitPolicy,
    { limit, cost }: { limit: number; cost: number },
    ...rest: readonly (string | number)[]
  ): Promise<Answer> => runScript<Answer>(client, script, [key, ...args(policy, limit, cost), ...rest])
  return {
    charge: async (client, key, policy, question, blockMs) =>
      chargeOf(await run<Reply | string>(client, key, policy, question, OPS.charge, blockMs)),
    look: async (client, key, policy, question) =>
      chargedOf(await run(client, key, policy, question, OPS.look)),
    force: async (client, key, policy, question) =>
      chargedOf(await run(client, key, policy, question, OPS.force)),
    async lease(client, key, policy, { want, share, ...question }, blockMs) {
      const reply = await run(client, key, policy, question, OPS.lease, want, share, blockMs)
      return grantOf(reply)
    },
    async refund(client, key, policy, { at, ...question }) {
      const [full] = await run(client, key, policy, question, OPS.refund, at)
      return full === 1
    },
    block: (client, key, policy, ms) =>
      run(client, key, policy, { limit: policy.limit || 1, cost: 1 }, OPS.block, ms),
  }
}

/** `remaining reset at` for one that fits. */
function chargeOf(reply: Reply | string): Charged {
  if (typeof reply !== 'string') return chargedOf(reply)
  const [remaining, resetMs, at] = reply.split(' ')
  return {
    allowed: true,
    remaining: Number(remaining),
    retryAfterMs: 0,
    resetMs: Number(resetMs),
    at: Number(at),
  }
}

export function chargedOf(reply: Reply, from = 0): Charged {
  return {
    allowed: reply[from] !== 0,
    remaining: reply[from + 1] as number,
    retryAfterMs: reply[from + 2] as number,
    resetMs: reply[from + 3] as number,
    at: reply[from + 4] as number,
  }
}

function grantOf(reply: Reply): Grant {
  return { ...chargedOf(reply), granted: reply[0] as number, validMs: Math.max(0, reply[5] as number) }
}
