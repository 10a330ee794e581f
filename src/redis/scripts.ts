import { createHash } from 'node:crypto'
import type { Cluster, Redis } from 'ioredis'

type ScriptClient = Redis | Cluster

/** One Lua script: its text, how many keys it takes, and its digest. */
export interface LuaScript {
  readonly lua: string
  readonly keys: number
  readonly sha: string
}

/**
 * Declares a script; the Lua text starts with a header that names KEYS, ARGV and the result.
 *
 * @example
 * const TOUCH = defineScript(1, `-- KEYS[1] session hash. ARGV[1] expiry in ms since the epoch. Result: 1 or 0.
 * return redis.call('PEXPIREAT', KEYS[1], ARGV[1])`)
 */
export function defineScript(keys: number, lua: string): LuaScript {
  return { lua, keys, sha: createHash('sha1').update(lua).digest('hex') }
}

/**
 * Runs a script by digest, and by text when the server does not know it (restart, failover, SCRIPT FLUSH).
 * Only NOSCRIPT is retried: after any other error the script may have run.
 */
export async function runScript<Reply>(
  client: ScriptClient,
  script: LuaScript,
  keysAndArgs: readonly (string | number | Buffer)[],
): Promise<Reply> {
  const call = keysAndArgs as (string | number | Buffer)[]
  try {
    return (await client.evalsha(script.sha, script.keys, ...call)) as Reply
  } catch (error) {
    if (!isUnknownScript(error)) throw error
    return (await client.eval(script.lua, script.keys, ...call)) as Reply
  }
}

/** Whether a digest has to be sent again as text. */
export function isUnknownScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('NOSCRIPT')
}
