import { once } from 'node:events'
import { httpSubject } from '../harness/http-subject.mjs'
import { serverFile } from '../harness/launchers.mjs'
import { get } from '../harness/load.mjs'
import { cpuOf, descendantsOf, rssOf, start, until } from '../harness/processes.mjs'
import { startRedis } from '../harness/redis.mjs'
import { ratio } from '../harness/verdict.mjs'

/** `secondMachine`: another hub listens on the same Redis, so that what is published has to go there. */
function contender(file, burst, { withRedis = false, secondMachine = false }) {
  return async ({ smoke }) => {
    const redis = withRedis ? await startRedis() : undefined
    const program = start(process.execPath, [serverFile(`bus/${file}`)], {
      ipc: true,
      env: redis ? { REDIS_URL: redis.unix } : {},
    })
    let second
    const close = async () => {
      await second?.stop()
      await program.stop()
      await redis?.stop()
    }
    const answer = async (from = program) => {
      const gone = from.exit.then((code) => {
        throw new Error(`${file} ended with ${code}\n${from.output()}`)
      })
      return (await Promise.race([once(from.child, 'message'), gone]))[0]
    }
    const workersUs = () => descendantsOf(program.pid).reduce((sum, pid) => sum + cpuOf(pid), 0)
    try {
      await answer()
      if (secondMachine) {
        second = start(process.execPath, [serverFile('bus/second-machine.mjs')], {
          ipc: true,
          env: { REDIS_URL: redis.unix, AS_ONE_NAMESPACE: 'bench', BENCH_MEMBERS: String(WORKERS + 1) },
        })
        await answer(second)
      }
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
  'as-one': contender('as-one.mjs', burst, { withRedis: true }),
  'as-one, a second machine listens': contender('as-one.mjs', burst, {
    withRedis: true,
    secondMachine: true,
  }),
  'process.send': contender('process-send.mjs', burst, {}),
  'ioredis PUBLISH': contender('redis-publish.mjs', burst, { withRedis: true }),
})
/** New connections to a cluster whose bus is busy: the primary that relays is the one that hands them out. */
function connections(way) {
  return async (context) => {
    let url = ''
    const subject = await httpSubject({
      launcher: 'as-one',
      app: 'bus/connections.mjs',
      workers: WORKERS,
      env: { BENCH_BUS: way, NODE_OPTIONS: `--import=${serverFile('bus/relay.mjs')}` },
      workload: async (at) => {
        url = at
        return [{ path: '/', headers: { Connection: 'close' } }]
      },
    })(context)
    const heard = async () => {
      for (;;) {
        const { body } = await get(`${url}/heard`)
        const { worker, heard } = JSON.parse(body)
        if (worker === 1) return { heard, at: performance.now() }
      }
    }
    if (way !== 'none') await until(async () => (await heard()).heard > 0, 'the bus to be busy')
    return {
      ...subject,
      async sample(ms) {
        const before = await heard()
        const figures = await subject.sample(ms)
        const after = await heard()
        return { ...figures, busRate: ((after.heard - before.heard) / (after.at - before.at)) * 1e3 }
      },
    }
  }
}

const SATURATED = '1 to 4 workers'
const CONNECTIONS = 'fresh connections beside 15,000 messages/s'
const WORKERS = 5
const SMALL = '1 to 4 workers, 10 a tick'

export default {
  title: 'Bus',
  about: `One worker publishes, four receive all of it in order, messages of about 110 bytes with their topic. The publisher says 200 (or
10) in one tick, and goes on while the slowest receiver is less than 16,000 messages behind: nothing is dropped.
\`process.send\` sends each to the primary, which sends it on; it reaches this machine only. as-one does no more than that
while no other machine listens, and gives all of it to Redis when one does: the second row, where a process elsewhere
hears every message and shares the two cores. \`ioredis PUBLISH\` is one PUBLISH for each message and a subscriber connection in each worker.
Redis is reached over a unix socket.
Connections: 64 clients open a new one for each request to five workers, one of which publishes at a fixed rate; what
the bus itself takes of the two cores is missing there, too.`,
  libraries: ['ioredis'],
  plot: { metric: 'rate', title: 'Messages per second', unit: '/s', less: false },
  columns: [
    'rate',
    'primaryUs',
    { key: 'workersUs', label: 'all workers, µs', print: (us) => us.toFixed(2) },
    'redisUs',
    'p50Ms',
    'p99Ms',
    { key: 'busRate', label: 'messages/s', print: (rate) => Math.round(rate).toLocaleString('en-US') },
  ],
  cases: [
    { name: SATURATED, contenders: contenders(200) },
    { name: SMALL, contenders: contenders(10) },
    {
      name: CONNECTIONS,
      contenders: {
        'as-one, no bus': connections('none'),
        'as-one': connections('as-one'),
        'process.send': connections('process.send'),
      },
      plan: { rounds: 8 },
      smoked: true,
    },
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
    {
      case: CONNECTIONS,
      what: 'fresh connections/s beside a busy bus, against none',
      value: ratio('rate', 'as-one', 'as-one, no bus'),
      min: 0.9,
    },
  ],
}
