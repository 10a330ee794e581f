import { startupSubject } from '../harness/restart-subject.mjs'

const contender = (launcher, env) => startupSubject({ launcher, env })

export default {
  title: 'Start and memory',
  about: `From nothing until 2 workers answer, and the resident memory a second later, when nothing has happened. The
app answers 17 bytes. \`as-one, local\` starts its own Redis as well; \`as-one\` has its hub on one that runs.`,
  needs: { pm2: ['pm2'] },
  libraries: ['pm2', 'ioredis'],
  plan: { sittings: 1, mostSittings: 3, rounds: 5 },
  plot: { metric: 'primaryMb', title: 'Memory of the idle primary', unit: 'MB' },
  columns: ['readyMs', 'primaryMb', 'workersMb'],
  cases: [
    {
      name: 'start',
      contenders: {
        'as-one': contender('as-one'),
        'as-one, local': contender('as-one', {
          REDIS_URL: undefined,
          NODE_ENV: 'development',
          AS_ONE_LOCAL: '1',
        }),
        'node:cluster': contender('node:cluster'),
        pm2: contender('pm2'),
      },
    },
  ],
  bars: [
    {
      case: 'start',
      what: 'idle primary, MB over that of node:cluster',
      value: (round) => round['as-one'].primaryMb - round['node:cluster'].primaryMb,
      max: 30,
    },
  ],
}
