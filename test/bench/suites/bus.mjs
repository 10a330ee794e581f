import { once } from 'node:events'
import { serverFile } from '../harness/launchers.mjs'
import { cpuOf, descendantsOf, rssOf, start } from '../harness/processes.mjs'
import { startRedis } from '../harness/redis.mjs'
import { ratio } from '../harness/verdict.mjs'

function contender(file, burst, withRedis) {
  return async ({ smoke }) => {
    const redis = withRedis ? await startRedis() : undefined
    const program = start(process.execPath, [serverFile(`bus/${file}`)], {
      ipc: true,
      env: redis ? { REDIS_URL: redis.tcp } : {},
    })
    const close = async () => {
      await program.stop()
      await redis?.stop()
    }
    const answer = async () => {
      const gone = program.exit.then((code) => {
        throw new Error(`${file} ended with ${code}\n${program.output()}`)
      })
      return (await Promise.race([once(program.child, 'message'), gone]))[0]
    }
    const workersUs = () => descendantsOf(program.pid).reduce((sum, pid) => sum + cpuOf(pid), 0)
    try {
      await answer()
    } catch (error) {
      await close()
      throw error
    }
    return {
      close,
      async sample(ms) {
        const before = { primary: cpuOf(program.pid), workers: workersUs(), redis: await redis?.counters() }
        const answered = answer()
        program.child.send({ runMs: smoke ? 20 : ms, burst })
        const { done, us } = await answered
        return {
          rate: done / (us / 1e6),
          primaryUs: (cpuOf(program.pid) - before.primary) / done,
          workersUs: (workersUs() - before.workers) / done,
          ...(redis && { redisUs: ((await redis.counters()).cpuUs - before.redis.cpuUs) / done }),
        }
      },
      facts: async () => ({ primaryMb: rssOf(program.pid) }),
    }
  }
}

const contenders = (burst) => ({
  'as-one': contender('as-one.mjs', burst, true),
  'process.send': contender('process-send.mjs', burst, false),
  'ioredis PUBLISH': contender('redis-publish.mjs', burst, true),
})
const SATURATED = '1 to 4 workers'
const SMALL = '1 to 4 workers, 10 a tick'

export default {
  title: 'Bus',
  about: `One worker publishes, four receive all of it in order, messages of about 110 bytes, at most 8,000 on
their way. \`process.send\` sends each to the primary, which sends it on; it reaches this machine only, as-one also
gives it to Redis for the others. \`ioredis PUBLISH\` is one PUBLISH for each message and a subscriber connection in
each worker.`,
  libraries: ['ioredis'],
  plan: { rounds: 6, sampleMs: 1_000, warmUpMs: 2_000 },
  plot: { metric: 'rate', title: 'Messages per second', unit: '/s', less: false },
  columns: [
    'rate',
    'primaryUs',
    { key: 'workersUs', label: 'all workers, µs', print: (us) => us.toFixed(2) },
    'redisUs',
  ],
  cases: [
    { name: SATURATED, contenders: contenders(200) },
    { name: SMALL, contenders: contenders(10) },
  ],
  bars: [
    { case: SATURATED, what: 'messages/s', value: (round) => round['as-one'].rate, min: 400_000 },
    {
      case: SATURATED,
      what: 'CPU of the primary, µs per message',
      value: (round) => round['as-one'].primaryUs,
      max: 0.6,
    },
    {
      case: SATURATED,
      what: 'messages/s, against process.send',
      value: ratio('rate', 'as-one', 'process.send'),
      min: 5,
    },
  ],
}
