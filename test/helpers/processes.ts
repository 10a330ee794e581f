import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { until } from './until.ts'

/** All of this reads /proc: the tests that look at process trees run on Linux. */

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return undefined // gone in the meantime, or not ours to read
  }
}

function allPids(): number[] {
  return readdirSync('/proc').map(Number).filter(Number.isInteger)
}

interface ProcessStat {
  state: string
  ppid: number
}

function statOf(pid: number): ProcessStat | undefined {
  // "pid (name) state ppid …": the name may itself hold spaces and brackets.
  const stat = readProc(pid, 'stat')
  const [state, ppid] = stat?.slice(stat.lastIndexOf(')') + 2).split(' ') ?? []
  return state && ppid ? { state, ppid: Number(ppid) } : undefined
}

/** The letter in /proc: 'R' running, 'S' sleeping, 'T' stopped, 'Z' dead but not yet waited for. */
export function stateOf(pid: number): string | undefined {
  return statOf(pid)?.state
}

/** A zombie is dead: nobody may ever wait for it where process 1 is not an init. */
export function isAlive(pid: number): boolean {
  const state = stateOf(pid)
  return state !== undefined && state !== 'Z' && state !== 'X'
}

export function commandOf(pid: number): string {
  return readProc(pid, 'cmdline')?.replaceAll('\0', ' ').trim() ?? ''
}

/** Children, their children and so on, parents first. */
export function descendants(pid: number): number[] {
  const children = new Map<number, number[]>()
  for (const each of allPids()) {
    const stat = statOf(each)
    if (!stat || stat.state === 'Z') continue
    children.set(stat.ppid, [...(children.get(stat.ppid) ?? []), each])
  }
  const found: number[] = []
  for (let next = [pid]; next.length > 0; ) {
    next = next.flatMap((parent) => children.get(parent) ?? [])
    found.push(...next)
  }
  return found
}

/** Living processes whose command line matches, or the living children of a process. */
export function pidsOf(which: RegExp | { parent: number }): number[] {
  if (which instanceof RegExp) {
    return allPids().filter((pid) => pid !== process.pid && isAlive(pid) && which.test(commandOf(pid)))
  }
  return allPids().filter((pid) => statOf(pid)?.ppid === which.parent && isAlive(pid))
}

/** Living processes that were started, however indirectly, with this variable in their environment. */
export function processesWith(variable: string, value: string): number[] {
  const entry = `\0${variable}=${value}\0`
  return allPids().filter((pid) => isAlive(pid) && `\0${readProc(pid, 'environ')}\0`.includes(entry))
}

/**
 * Living processes whose working directory is this one or below. It finds the Redis servers: they overwrite
 * their environment with the process title.
 */
export function processesIn(dir: string): number[] {
  return allPids().filter((pid) => {
    try {
      const cwd = readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, '')
      return (cwd === dir || cwd.startsWith(`${dir}/`)) && isAlive(pid)
    } catch {
      return false
    }
  })
}

/** SIGKILLs whatever `find` returns until it returns nothing: a supervisor may fork between look and kill. */
export async function killAll(find: () => number[]): Promise<void> {
  await until(
    () => {
      const pids = find().filter((pid) => pid !== process.pid)
      for (const pid of pids) sendSignal(pid, 'SIGKILL')
      return pids.length === 0
    },
    { what: 'killed processes to be gone', every: 5, deadline: 50_000 },
  )
}

/** False if there is no such process any more. */
export function sendSignal(pid: number, signal: NodeJS.Signals): boolean {
  if (!Number.isInteger(pid) || pid === 0)
    throw new Error(`${pid} is no process; 0 would be this run's own group`)
  try {
    return process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}
