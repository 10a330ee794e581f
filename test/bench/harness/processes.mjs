import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

/** All of this reads /proc: the figures are taken on Linux. */
function readProc(path) {
  try {
    return readFileSync(`/proc/${path}`, 'utf8')
  } catch {
    return '' // gone in the meantime
  }
}

/** CPU time of a process and all its threads since it began, in microseconds. */
export function cpuOf(pid) {
  let total = 0
  let tasks = []
  try {
    tasks = readdirSync(`/proc/${pid}/task`)
  } catch {
    return 0
  }
  for (const task of tasks)
    total += Number(readProc(`${pid}/task/${task}/schedstat`).split(' ')[0] || 0) / 1e3
  if (total > 0) return total
  // Kernels without schedstats: ticks of 10 ms.
  const stat = readProc(`${pid}/stat`)
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 1e4
}

/** Resident set in MB. */
export function rssOf(pid) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readProc(`${pid}/status`))?.[1] ?? 0) / 1024
}

/** Living children, their children and so on. */
export function descendantsOf(pid) {
  const children = new Map()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = readProc(`${name}/stat`)
    const [state, ppid] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (state && state !== 'Z')
      children.set(Number(ppid), [...(children.get(Number(ppid)) ?? []), Number(name)])
  }
  const found = []
  for (let next = [pid]; next.length > 0; ) {
    next = next.flatMap((each) => children.get(each) ?? [])
    found.push(...next)
  }
  return found
}

/** The processes below a primary that are Node's, whatever they call themselves: not its Redis, nor that one's guardian. */
export function workersOf(pid) {
  return descendantsOf(pid).filter((each) => !/^(redis|valkey|sh$|sleep)/m.test(readProc(`${each}/comm`)))
}

export function isAlive(pid) {
  const stat = readProc(`${pid}/stat`)
  return stat !== '' && !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2))
}

export async function until(condition, what, deadlineMs = 30_000) {
  const end = performance.now() + deadlineMs
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > end) throw new Error(`waited ${deadlineMs} ms for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** Settings of whoever calls that would silently become settings of the contenders. */
const FOREIGN = /^(VITEST|AS_ONE_|npm_|NODE_|REDIS_URL$|WEB_CONCURRENCY$|PORT$)/

/** Runs a program whose whole tree is killed by `stop`, and with us. */
export function start(program, args, { env = {}, cwd, ipc = false } = {}) {
  const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !FOREIGN.test(name)))
  const child = spawn(program, args, {
    cwd,
    env: { ...own, NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc'] : [])],
  })
  let output = ''
  let stdout = ''
  const waiting = new Set()
  const told = () => {
    for (const look of waiting) look()
  }
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => {
      if (name === 'stdout') stdout += text
      output = (output + text).slice(-4_000)
      told()
    })
  }
  let gone
  const exit = new Promise((resolve) => {
    child.once('error', (error) => {
      output += String(error)
      gone = -1
      told()
      resolve(-1)
    })
    child.once('exit', (code, signal) => {
      gone = signal ?? code
      told()
      resolve(gone)
    })
  })
  const kill = () => {
    const pids = child.pid ? [child.pid, ...descendantsOf(child.pid)] : []
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {} // gone already
    }
  }
  running.add(kill)
  exit.then(() => running.delete(kill))
  const waitFor = (pattern, deadlineMs = 30_000) =>
    new Promise((resolve, reject) => {
      const end = (settle, value) => {
        waiting.delete(look)
        clearTimeout(timer)
        settle(value)
      }
      const look = () => {
        const match = pattern.exec(stdout)
        if (match) end(resolve, match)
        else if (gone !== undefined) end(reject, new Error(`${args.join(' ')} ended with ${gone}\n${output}`))
      }
      const timer = setTimeout(
        () => end(reject, new Error(`${args.join(' ')}: no ${pattern} in ${deadlineMs} ms\n${output}`)),
        deadlineMs,
      )
      waiting.add(look)
      look()
    })
  return {
    child,
    exit,
    pid: child.pid,
    waitFor,
    output: () => output,
    get gone() {
      return gone
    },
    async stop() {
      if (gone !== undefined) return
      const tree = descendantsOf(child.pid)
      child.kill('SIGTERM')
      const slow = setTimeout(kill, 10_000)
      await exit
      clearTimeout(slow)
      for (const pid of tree) {
        try {
          if (isAlive(pid)) process.kill(pid, 'SIGKILL')
        } catch {} // gone meanwhile
      }
    },
  }
}

const running = new Set()
process.once('exit', () => {
  for (const kill of running) kill()
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130))
