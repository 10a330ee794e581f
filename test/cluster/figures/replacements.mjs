/**
 * Worker replacements under mixed load, and what the clients see:
 * `node test/cluster/figures/replacements.mjs ours|bare|pm2 [replacements]` prints one line of JSON,
 * `… all [replacements of ours] [of the others]` a table of all three. PM2 comes from PM2_BIN: it is under the AGPL, so
 * no dependency of this package.
 */
import { execFile, execFileSync, fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { freePort } from '../../bench/harness/ports.mjs'

const [kind = 'ours', wanted = '200', ofOthers = '40'] = process.argv.slice(2)
if (kind === 'all') {
  compare()
  process.exit()
}
const { WebSocket } = createRequire(import.meta.url)('ws')
const WORKERS = 4
const HUNG_MS = 15_000
const state = mkdtempSync(join(tmpdir(), 'as-one-'))
const port = await freePort()
const result = {
  kind,
  replacements: 0,
  seconds: 0,
  answered: 0,
  failed: 0,
  forced: 0,
  byClient: {},
  failures: {},
}
let stopping = false

const server = kind === 'pm2' ? await startPm2() : await startFork()
const begun = performance.now()
try {
  const clients = [
    ...several(
      6,
      'keep-alive',
      () => new http.Agent({ keepAlive: true, maxSockets: 1 }),
      (agent) => ask({ agent }),
    ),
    ...several(
      6,
      'fresh',
      () => false,
      () => ask({}),
    ),
    ...several(
      2,
      'POST 16 KB',
      () => false,
      () => ask({ method: 'POST', body: Buffer.alloc(16_384) }),
    ),
    ...several(2, 'chunked upload', () => false, upload),
    ...several(2, 'event stream', () => false, eventStream),
    ...several(6, 'silent, then a request', () => false, silent),
    ...several(3, 'WebSocket', () => false, webSocket),
  ]
  await sleep(500)
  while (result.replacements < Number(wanted)) {
    result.forced = await server.reload()
    result.replacements += WORKERS
  }
  stopping = true
  await Promise.all(clients)
} finally {
  await server.stop()
  rmSync(state, { recursive: true, force: true })
}
result.seconds = Math.round((performance.now() - begun) / 1_000)
console.log(JSON.stringify(result))
process.exit()

function compare() {
  const kinds = process.env.PM2_BIN ? ['ours', 'bare', 'pm2'] : ['ours', 'bare']
  const rows = kinds.map((each) => {
    const args = [process.argv[1], each, each === 'ours' ? wanted : ofOthers]
    const { failures, byClient, ...row } = JSON.parse(
      execFileSync(process.execPath, args, { encoding: 'utf8' }),
    )
    console.error(JSON.stringify({ kind: each, failures, byClient }))
    return { ...row, 'failed per 100': Math.round((100 * row.failed) / row.replacements) }
  })
  console.table(rows)
}

function several(count, name, open, once) {
  return Array.from({ length: count }, async () => {
    const kept = open()
    while (!stopping) {
      try {
        await once(kept)
        result.answered += 1
        result.byClient[name] = (result.byClient[name] ?? 0) + 1
      } catch (error) {
        result.failed += 1
        const what = `${name}: ${error.code ?? error.message}`
        result.failures[what] = (result.failures[what] ?? 0) + 1
        await sleep(10)
      }
    }
    if (kept) kept.destroy()
  })
}

function ask({ agent = false, method = 'GET', path = '/', body, write }) {
  return new Promise((done, fail) => {
    const headers = body ? { 'content-length': body.length } : {}
    const request = http.request({ host: '127.0.0.1', port, path, method, agent, headers }, (response) => {
      response.once('error', fail)
      response.once('aborted', () => fail(new Error('cut off')))
      response.once('end', () => (response.complete ? done() : fail(new Error('cut off'))))
      response.resume()
    })
    request.setTimeout(HUNG_MS, () => request.destroy(new Error('hung')))
    request.once('error', fail)
    if (write) write(request).catch(fail)
    else request.end(body)
  })
}

function upload() {
  return ask({
    method: 'POST',
    async write(request) {
      for (let i = 0; i < 10; i++) {
        request.write(Buffer.alloc(1_024))
        await sleep(20)
      }
      request.end()
    },
  })
}

/** Ended in an orderly way it counts as answered: EventSource connects again by itself. Cut off it has failed. */
function eventStream() {
  if (stopping) return undefined
  return new Promise((done, fail) => {
    const request = http.get({ host: '127.0.0.1', port, path: '/events', agent: false }, (response) => {
      const look = setInterval(() => stopping && request.destroy(), 50)
      response.resume()
      response.once('close', () => {
        clearInterval(look)
        if (response.complete || stopping) done()
        else fail(new Error('cut off'))
      })
      response.once('error', () => {})
    })
    request.once('error', (error) => (stopping ? done() : fail(error)))
  })
}

/** Sent away with 1001 it connects again, as its libraries do; closed in any other way, or left without an echo, it has failed. */
function webSocket() {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    let unanswered = 0
    let timer
    socket.on('open', () => {
      timer = setInterval(() => {
        if (stopping) return socket.close()
        if (unanswered > HUNG_MS / 50) return socket.terminate()
        unanswered += 1
        socket.send('x')
      }, 50)
    })
    socket.on('message', () => {
      unanswered = 0
    })
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', (code) => {
      clearInterval(timer)
      if (code === 1001 || stopping) done()
      else fail(new Error(`closed with ${code}`))
    })
  })
}

/** A browser's spare connection: opened, not used for a while. One that is closed in an orderly way meanwhile is no loss. */
async function silent() {
  const socket = net.connect(port, '127.0.0.1')
  let closed = false
  let text = ''
  let failure
  socket.setEncoding('utf8')
  socket.on('data', (chunk) => {
    text += chunk
  })
  socket.on('end', () => {
    closed = true
  })
  socket.on('error', (error) => {
    failure = error
  })
  for (let i = 0; i < 20 && !closed && !failure && !stopping; i++) await sleep(100)
  if (failure) throw failure
  if (closed || stopping) return void socket.destroy()
  socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  const deadline = performance.now() + HUNG_MS
  while (!closed && !failure && performance.now() < deadline) await sleep(5)
  socket.destroy()
  // A browser sends it again when the connection was closed at that very moment, without a byte of an answer.
  if (failure && text !== '') throw failure
  if (!failure && !closed) throw new Error('hung')
}

async function startFork() {
  const script = fileURLToPath(new URL(`${kind}.mjs`, import.meta.url))
  const child = fork(script, [String(port), String(WORKERS)], {
    cwd: state,
    env: { ...process.env, XDG_STATE_HOME: state },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const next = () =>
    new Promise((done, fail) => {
      child.once('message', done)
      child.once('exit', (code) => fail(new Error(`the primary has exited with code ${code}`)))
    })
  await next()
  return {
    async reload() {
      child.send('reload')
      return (await next()).forced
    },
    stop() {
      const gone = new Promise((done) => child.once('exit', done))
      child.kill('SIGTERM')
      return Promise.race([gone, sleep(15_000)])
    },
  }
}

async function startPm2() {
  const bin = process.env.PM2_BIN
  if (!bin) throw new Error('PM2_BIN must name the pm2 of an installation of its own')
  const env = { ...process.env, PM2_HOME: join(state, 'pm2'), PORT: String(port) }
  const pm2 = (...args) => promisify(execFile)(process.execPath, [bin, ...args], { env, cwd: state })
  const script = fileURLToPath(new URL('pm2-app.mjs', import.meta.url))
  await pm2('start', script, '-i', String(WORKERS), '--name', 'figures')
  return {
    async reload() {
      await pm2('reload', 'figures')
      return null // PM2 does not say
    },
    stop: () => pm2('kill'),
  }
}
