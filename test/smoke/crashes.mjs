/**
 * Workers that crash under load, and what their clients see: `node test/smoke/crashes.mjs [ours|bare] [crashes]`.
 * Plain Node, so that any version can run it: it leans on what Node's cluster keeps to itself. Fails when a client of
 * ours waits longer than a second; bare node:cluster is the control.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../bench/harness/ports.mjs'

const kind = process.argv[2] ?? 'ours'
const crashes = Number(process.argv[3] ?? 50)
const FRESH = 20
const KEPT_ALIVE = 8
const HUNG_MS = 5_000
const LONG_WAIT_MS = 1_000
/** Long enough for a replacement: with no worker at all connections are refused, which is another story. */
const PAUSE_MS = 300

const state = mkdtempSync(join(tmpdir(), 'as-one-crashes-'))
const port = await freePort()
const server = spawn(
  process.execPath,
  [fileURLToPath(new URL('crash-server.mjs', import.meta.url)), kind, String(port)],
  {
    cwd: state,
    env: { ...process.env, XDG_STATE_HOME: state, NODE_ENV: '' },
    stdio: ['ignore', 'pipe', 'ignore'],
  },
)
const exited = new Promise((done) => server.once('exit', done))
const result = { kind, node: process.version, crashes: 0, answered: 0, reset: 0, hung: 0, longestMs: 0 }
let stopping = false

try {
  await Promise.race([
    new Promise((done) => server.stdout.on('data', done)),
    exited.then((code) => Promise.reject(new Error(`the server has exited with code ${code}`))),
  ])
  const clients = Array.from({ length: FRESH + KEPT_ALIVE }, (_, i) => visit(i >= FRESH))
  await sleep(300)
  while (result.crashes < crashes) {
    await ask('/crash', false)
      .then(() => {})
      .catch(({ code }) => code !== 'ECONNREFUSED' && result.crashes++)
    await sleep(PAUSE_MS)
  }
  await sleep(300)
  stopping = true
  await Promise.all(clients)
} finally {
  server.kill('SIGTERM')
  await Promise.race([exited, sleep(12_000).then(() => server.kill('SIGKILL'))])
  rmSync(state, { recursive: true, force: true })
}
console.log(JSON.stringify(result))
process.exit(kind === 'ours' && (result.hung > 0 || result.longestMs > LONG_WAIT_MS) ? 1 : 0)

async function visit(keepAlive) {
  const agent = keepAlive ? new http.Agent({ keepAlive: true, maxSockets: 1 }) : false
  while (!stopping) {
    const begun = performance.now()
    try {
      await ask('/', agent)
      result.answered++
    } catch ({ code, message }) {
      if (message === 'hung') result.hung++
      else if (code === 'ECONNREFUSED') await sleep(20)
      else result.reset++
    }
    result.longestMs = Math.max(result.longestMs, Math.round(performance.now() - begun))
  }
  if (agent) agent.destroy()
}

function ask(path, agent) {
  return new Promise((done, fail) => {
    const request = http.get({ port, path, agent }, (response) => {
      response.resume()
      response.once('end', done)
      response.once('error', fail)
    })
    request.setTimeout(HUNG_MS, () => request.destroy(new Error('hung')))
    request.once('error', fail)
  })
}
