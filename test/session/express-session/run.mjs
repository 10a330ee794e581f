// express-session's own tests on our middleware and our store, on a real Redis. Nothing is downloaded here:
//
//   git clone --branch v1.19.0 https://github.com/expressjs/session checkout
//   (cd checkout && npm install && ./test/support/gencert.sh)
//   npm run build && node test/session/express-session/run.mjs checkout
//
// Uses REDIS_URL, or starts a redis-server of its own. Ends with 1 when anything but the tests named below fails.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startRedis } from '../../bench/harness/redis.mjs'

/** What fails, by `commit`. README.md, "express-session's own tests", says why. */
const EXPECTED = {
  after: [],
  'before-headers': [
    'session() resave option when false should pass session touch error',
    'session() saveUninitialized option should pass session save error',
    'session() unset option should pass session destroy error',
    'session() req.session .cookie .* should forward errors setting cookie',
  ],
}

const checkout = resolve(process.argv[2] ?? '')
const mocha = resolve(checkout, 'node_modules/mocha/bin/mocha.js')
for (const file of [mocha, 'test/session.js', 'test/fixtures/server.key'].map((each) =>
  resolve(checkout, each),
)) {
  if (existsSync(file)) continue
  console.error(
    `${file} is not there: give the path to a checkout of expressjs/session, see the top of this file`,
  )
  process.exit(2)
}
const { version } = JSON.parse(readFileSync(resolve(checkout, 'package.json'), 'utf8'))

function run(commit, redis) {
  const shim = fileURLToPath(new URL('shim.mjs', import.meta.url))
  const args = [
    '--require',
    'test/support/env',
    '--require',
    shim,
    '--exit',
    '--reporter',
    'json',
    'test/session.js',
  ]
  const { stdout, stderr, status } = spawnSync(process.execPath, [mocha, ...args], {
    cwd: checkout,
    env: { ...process.env, CHECKOUT: checkout, COMMIT: commit, REDIS_URL: redis },
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  })
  const from = stdout.indexOf('{\n  "stats"')
  if (from < 0) throw new Error(`mocha ended with ${status} and no result: ${stdout}${stderr}`)
  const { stats, failures } = JSON.parse(stdout.slice(from))
  console.log(`express-session ${version}, commit '${commit}': ${stats.passes} of ${stats.tests} pass`)
  const unexpected = failures.filter(({ fullTitle }) => !EXPECTED[commit].includes(fullTitle))
  for (const { fullTitle, err } of failures)
    console.log(`  fails: ${fullTitle}: ${err.message.split('\n', 1)[0]}`)
  return unexpected.length === 0 && failures.length === EXPECTED[commit].length
}

const own = process.env.REDIS_URL === undefined ? await startRedis() : undefined
try {
  const asExpected = Object.keys(EXPECTED).map((commit) => run(commit, process.env.REDIS_URL ?? own.tcp))
  process.exitCode = asExpected.every(Boolean) ? 0 : 1
} finally {
  await own?.stop()
}
