import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readdir, readlink, rm, symlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { LocalRedisFiles } from './local-redis-dir.ts'
import { localRedisError } from './server-binary.ts'

/**
 * Who may start and stop the server. What is said here in TypeScript, for users that live, `local-redis-guardian.ts`
 * says again in sh, for a user that has died. Both keep to these rules:
 *
 * - A process is named `<pid>-<start time>-<nonce>`, so that a pid used again is another process. A zombie is dead.
 * - A lock is a symbolic link to its owner's name: made and named in one step, and that even on a full disk.
 * - Only who holds the lock `<path>.<owner>` may take away the lock of a dead owner. Names are never used twice, so
 *   nobody can take away the lock that another one has put there in the meantime.
 * - `users/<name>` is written and the server started or stopped only under the lock.
 */
export interface LockWait {
  signal?: AbortSignal | undefined
  /** False where waiting must not keep the process alive. */
  ref: boolean
}

const POLL_MS = 20
/** Longer than the longest legitimate hold, a server that takes its full time to stop. */
const LOCK_DEADLINE_MS = 60_000

export function newProcessName(): string {
  const startTime = startTimeOf(process.pid)
  if (!startTime) throw localRedisError('cannot read the start time of this process from /proc or ps')
  return `${process.pid}-${startTime}-${randomBytes(4).toString('hex')}`
}

export function isProcessAlive(name: string): boolean {
  const [, pid, startTime] = /^(\d+)-([^-]+)-[^-]+$/.exec(name) ?? []
  return pid !== undefined && startTimeOf(Number(pid)) === startTime
}

/** Undefined for a process that is gone or a zombie. */
export function startTimeOf(pid: number): string | undefined {
  if (process.platform !== 'linux') {
    const born = ask('ps', ['-o', 'lstart=', '-p', String(pid)])
    return born?.replace(/[^A-Za-z0-9]+/g, '_') || undefined
  }
  // "pid (name) state ppid …", and the name may itself hold spaces and brackets.
  const stat = readProc(pid, 'stat')
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ') ?? []
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}

/** The server's pid, if the process with the recorded pid still is a server on our configuration file. */
export function serverPid(files: LocalRedisFiles): number | undefined {
  let recorded: string
  try {
    recorded = readFileSync(files.pid, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
  const pid = Number(recorded.trim())
  return Number.isInteger(pid) && isServer(pid, files) ? pid : undefined
}

export function isServer(pid: number, { config }: LocalRedisFiles): boolean {
  if (process.platform === 'linux') return readProc(pid, 'cmdline')?.split('\0').includes(config) ?? false
  return ask('ps', ['-ww', '-o', 'command=', '-p', String(pid)])?.includes(config) ?? false
}

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return undefined // gone, or hidden from us, which another user's process may be: neither is ours
  }
}

function ask(command: string, args: string[]): string | undefined {
  try {
    return execFileSync(command, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, LC_ALL: 'C' },
    })
  } catch {
    return undefined // ps exits with 1 for a process that is gone
  }
}

export async function underLock<T>(
  files: Pick<LocalRedisFiles, 'lock'>,
  wait: LockWait,
  work: () => Promise<T>,
): Promise<T> {
  await takeLock(files.lock, newProcessName(), wait)
  try {
    return await work()
  } finally {
    await rm(files.lock, { force: true })
  }
}

async function takeLock(path: string, name: string, wait: LockWait): Promise<void> {
  const deadline = performance.now() + LOCK_DEADLINE_MS
  while (!(await linkUnlessExists(name, path))) {
    const owner = await ownerOf(path)
    if (owner === undefined) continue
    if (!isProcessAlive(owner)) {
      await takeLock(`${path}.${owner}`, name, wait)
      try {
        if ((await ownerOf(path)) === owner) await rm(path)
      } finally {
        await rm(`${path}.${owner}`, { force: true })
      }
      continue
    }
    if (performance.now() > deadline) {
      throw localRedisError(
        `process ${owner.split('-')[0]} has held ${path} for ${LOCK_DEADLINE_MS / 1000} s: end that process`,
      )
    }
    await pause(wait)
  }
}

/** Between two looks at something that another process does. */
export function pause({ ref, signal }: LockWait, ms: number = POLL_MS): Promise<void> {
  return delay(ms, undefined, signal ? { ref, signal } : { ref })
}

async function linkUnlessExists(target: string, path: string): Promise<boolean> {
  try {
    await symlink(target, path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

async function ownerOf(path: string): Promise<string | undefined> {
  try {
    return await readlink(path)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

/** Under the lock: the users that live. Those that do not are struck off, and so are the locks on locks they have left. */
export async function livingUsers(files: LocalRedisFiles): Promise<string[]> {
  const users = await readdir(files.users)
  for (const user of users) {
    if (!isProcessAlive(user)) await rm(join(files.users, user), { force: true })
  }
  for (const entry of await readdir(files.dir)) {
    if (!entry.startsWith(`${basename(files.lock)}.`)) continue
    const owner = await ownerOf(join(files.dir, entry))
    if (owner && !isProcessAlive(owner)) await rm(join(files.dir, entry), { force: true })
  }
  return users.filter(isProcessAlive)
}

export function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT'
}
