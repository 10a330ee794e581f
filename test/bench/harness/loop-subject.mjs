import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { start } from './processes.mjs'
import { startRedis } from './redis.mjs'

const file = (path) => fileURLToPath(new URL(`../loops/${path}`, import.meta.url))
const COUNTED = 1_000

/**
 * A contender that is called, in a process of its own: `module` in `test/bench/loops` exports
 * `open({ redisUrl, ...options })` with `check()`, `batch(n)` that does n operations and returns their number, and
 * perhaps `batchSize`.
 */
export function loopSubject({
  module,
  redis: transport = 'tcp',
  options = {},
  nodeArgs = [],
  counted = COUNTED,
}) {
  return async ({ smoke }) => {
    const redis = transport ? await startRedis() : undefined
    const redisUrl = redis?.[transport]
    const args = [...nodeArgs, file('host.mjs'), file(module), JSON.stringify({ redisUrl, ...options })]
    const host = start(process.execPath, args, { ipc: true, env: redisUrl ? { REDIS_URL: redisUrl } : {} })
    const close = async () => {
      await host.stop()
      await redis?.stop()
    }
    const answer = async () => {
      const gone = host.exit.then((code) => {
        throw new Error(`${module} ended with ${code}\n${host.output()}`)
      })
      const [message] = await Promise.race([once(host.child, 'message'), gone])
      return message
    }
    const run = (what) => {
      const answered = answer()
      host.child.send(what)
      return answered
    }
    try {
      const { rssMb: idleMb } = await answer()
      return {
        close,
        async sample(ms) {
          const before = await redis?.counters()
          const { done, us, cpuUs, worstMs } = await run(smoke ? { count: 20 } : { runMs: ms })
          const after = await redis?.counters()
          return {
            rate: done / (us / 1e6),
            appUs: cpuUs / done,
            worstMs,
            ...(redis && {
              redisUs: (after.cpuUs - before.cpuUs) / done,
              bytes: (after.bytesIn - before.bytesIn + after.bytesOut - before.bytesOut) / done,
            }),
          }
        },
        async facts() {
          if (!redis) return { idleMb }
          const [count, quietMs] = smoke ? [20, 1] : [counted]
          return { idleMb, ...(await redis.commandsPer(count, () => run({ count }), quietMs)) }
        },
      }
    } catch (error) {
      await close()
      throw error
    }
  }
}
