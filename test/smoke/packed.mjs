/**
 * The package as a stranger gets it: packed, installed into an empty Express 5 project, run by the Node that runs this
 * file. Plain Node, no test runner, so that any version can run it: `node test/smoke/packed.mjs [tarball]`.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from '../bench/harness/ports.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const project = mkdtempSync(join(tmpdir(), 'as-one-smoke-'))
const children = new Set()
const MACHINES = 2
const WORKERS = 2

const app = `
import express from 'express'
import { broadcast, sharedSession, subscribe } from 'as-one'
const app = express()
const heard = []
subscribe('hello', (payload) => heard.push(payload))
app.use(sharedSession({ secret: 'smoke' }))
app.get('/', (req, res) => {
  req.session.count = (req.session.count ?? 0) + 1
  res.json({ pid: process.pid, count: req.session.count })
})
app.post('/hello/:id', (req, res) => { broadcast('hello', req.params.id); res.json({ pid: process.pid }) })
app.get('/heard', (req, res) => res.json({ pid: process.pid, heard }))
export default app
`
const server = `
import { runCluster } from 'as-one'
const cluster = await runCluster(() => import('./app.js'), { port: Number(process.argv[2]), workers: ${WORKERS}, name: 'smoke' })
if (cluster.role === 'primary') console.log('serving')
`

let passed = 0
let failed = 0

try {
  await step(`packed and installed, Node ${process.version}`, install)
  const machines = []
  await step(`${MACHINES} primaries answer with the managed local Redis`, async () => {
    for (let i = 0; i < MACHINES; i++) machines.push(await startMachine())
  })
  await step('200 requests of one cookie jar, >= 2 pids, the counter at exactly 200', () => session(machines))
  await step('a broadcast from any worker is heard exactly once by every worker of both', () =>
    broadcasts(machines),
  )
  await step('SIGTERM leaves nothing behind', () => stopAll(machines))
} finally {
  for (const child of children) child.kill('SIGKILL')
  rmSync(project, { recursive: true, force: true })
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

async function step(name, run) {
  try {
    await run()
    passed += 1
    console.log(`ok     ${name}`)
  } catch (error) {
    failed += 1
    console.log(`not ok ${name}\n${error.stack}`)
  }
}

async function install() {
  const npm = (args, cwd) =>
    execFileSync('npm', args, { cwd, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' })
  const tarball =
    process.argv[2] ??
    npm(['pack', '--silent', '--pack-destination', project], root).trim().split('\n').at(-1)
  writeFileSync(
    join(project, 'package.json'),
    JSON.stringify({ name: 'smoke', private: true, type: 'module' }),
  )
  writeFileSync(join(project, 'app.js'), app)
  writeFileSync(join(project, 'server.js'), server)
  npm(['install', '--no-audit', '--no-fund', '--silent', 'express@5', resolve(project, tarball)], project)
}

async function startMachine() {
  const port = await freePort()
  const { REDIS_URL, NODE_ENV, ...env } = process.env
  const child = spawn(process.execPath, ['server.js', String(port)], {
    cwd: project,
    env: { ...env, XDG_STATE_HOME: join(project, 'state') },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.add(child)
  let said = ''
  const exited = new Promise((done) =>
    child.once('exit', (code, signal) => {
      children.delete(child)
      done({ code, signal })
    }),
  )
  child.stderr.on('data', (chunk) => {
    said += chunk
  })
  child.stdout.on('data', (chunk) => {
    said += chunk
  })
  await until('the primary to serve', () => {
    if (child.exitCode !== null) throw new Error(`it exited with code ${child.exitCode}: ${said}`)
    return said.includes('serving')
  })
  return { port, child, exited }
}

async function session(machines) {
  const pids = new Set()
  let cookie
  let count = 0
  for (let i = 0; i < 200; i++) {
    const { port } = machines[i % machines.length]
    const { body, headers } = await request('GET', port, '/', cookie)
    cookie = headers['set-cookie']?.[0].split(';')[0] ?? cookie
    pids.add(body.pid)
    count = body.count
  }
  assert.equal(count, 200)
  assert.ok(pids.size >= 2, `answered by ${pids.size} pid`)
}

async function broadcasts(machines) {
  const workers = new Map()
  for (const { port } of machines) {
    await until('every worker to answer', async () => {
      const { body } = await request('GET', port, '/heard')
      workers.set(body.pid, port)
      return [...workers.values()].filter((at) => at === port).length === WORKERS
    })
  }
  const sent = []
  const senders = new Set()
  while (senders.size < MACHINES * WORKERS && sent.length < 200) {
    const { port } = machines[sent.length % machines.length]
    const id = `message-${sent.length}`
    senders.add((await request('POST', port, `/hello/${id}`)).body.pid)
    sent.push(id)
  }
  assert.equal(senders.size, MACHINES * WORKERS, 'not every worker came to send')
  const heardBy = new Map()
  await until('every worker to hear every message', async () => {
    for (const { port } of machines) {
      const { body } = await request('GET', port, '/heard')
      heardBy.set(body.pid, body.heard)
    }
    return (
      heardBy.size === workers.size && [...heardBy.values()].every((heard) => heard.length >= sent.length)
    )
  })
  for (const heard of heardBy.values()) assert.deepEqual([...heard].sort(), [...sent].sort())
}

async function stopAll(machines) {
  for (const { child } of machines) child.kill('SIGTERM')
  for (const { exited } of machines) assert.deepEqual(await exited, { code: 0, signal: null })
  await until('every process to end', () => processesIn(project).length === 0)
}

function processesIn(folder) {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false
    try {
      return execFileSync('readlink', [`/proc/${pid}/cwd`], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).startsWith(folder)
    } catch {
      return false // it has gone meanwhile
    }
  })
}

function request(method, port, path, cookie) {
  return new Promise((done, fail) => {
    const options = { method, port, path, agent: false, headers: cookie ? { cookie } : {} }
    const sent = http.request(options, (res) => {
      let text = ''
      res.setEncoding('utf8')
      res.on('data', (chunk) => {
        text += chunk
      })
      res.on('end', () => {
        if (res.statusCode !== 200) fail(new Error(`${method} ${path}: ${res.statusCode} ${text}`))
        else done({ body: JSON.parse(text), headers: res.headers })
      })
    })
    sent.on('error', fail)
    sent.end()
  })
}

async function until(what, condition, deadlineMs = 20_000) {
  const end = Date.now() + deadlineMs
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`waited ${deadlineMs} ms for ${what}`)
    await new Promise((done) => setTimeout(done, 50))
  }
}
