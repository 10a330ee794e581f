import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { open, readFile } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { messageOf, type SharedStateError } from '../core/errors.ts'
import { type LocalRedisFiles, prepareLog, writeConfig } from './local-redis-dir.ts'
import { STOP_DEADLINE_MS } from './local-redis-guardian.ts'
import { isServer, type LockWait, pause, serverPid, startTimeOf } from './local-redis-lock.ts'
import { localRedisError, type ServerBinary } from './server-binary.ts'

const SILENCE_DEADLINE_MS = 30_000
const REPLY_DEADLINE_MS = 2_000
const QUOTED_LOG_LINES = 6
/** So often in a row a process that lives may not look like the server before it is taken for another one. */
const STRANGE_LOOKS = 10

/** A server process; `diedEarly` explains its end, where this process started it. */
export interface LocalServer {
  readonly pid: number
  readonly diedEarly?: () => Promise<SharedStateError>
}

/** Under the lock: the server that runs here, or a new one. */
export async function findOrStartServer(
  files: LocalRedisFiles,
  binary: ServerBinary,
  env: NodeJS.ProcessEnv,
  wait: LockWait,
): Promise<LocalServer> {
  const pid = serverPid(files)
  if (pid !== undefined) return { pid }
  const unknown = await ping(files.socket, wait.ref)
  if (unknown) {
    unknown.socket.destroy()
    // Two servers would write to one append-only file.
    throw localRedisError(
      `${files.socket} is answered by a server that this process cannot see, perhaps in another container: give each its own XDG_STATE_HOME`,
    )
  }
  return startServer(files, binary, env, wait)
}

async function startServer(
  files: LocalRedisFiles,
  binary: ServerBinary,
  env: NodeJS.ProcessEnv,
  wait: LockWait,
): Promise<LocalServer> {
  await writeConfig(files)
  const logStart = await prepareLog(files)
  const log = await open(files.log, 'a')
  // Its own session: a Ctrl-C in the terminal is for the app, which still needs Redis to drain.
  const stdio = ['ignore', log.fd, log.fd] as const
  const child = spawn(binary.path, [files.config], {
    cwd: files.dir,
    env,
    stdio: [...stdio],
    detached: true,
  })
  try {
    if (child.pid === undefined) await once(child, 'spawn')
  } finally {
    await log.close()
  }
  child.unref()
  const pid = child.pid as number
  const end = async (): Promise<void> => {
    child.kill('SIGKILL') // if it has not, nobody knows it for a server of ours
    child.ref()
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  }
  const withoutRecord = async (cause?: unknown): Promise<SharedStateError> => {
    await end() // nobody else could ever find it
    return localRedisError(
      `cannot write ${files.pid}: ${cause ? messageOf(cause) : 'no space left on device?'}`,
      cause,
    )
  }
  try {
    // The server writes the same line a few milliseconds later, but this process might be killed in between.
    writeFileSync(files.pid, `${pid}\n`, { mode: 0o600 })
  } catch (error) {
    throw await withoutRecord(error)
  }
  const diedEarly = async (): Promise<SharedStateError> => {
    await end()
    const how = child.signalCode ? `was ended by ${child.signalCode}` : `exited with code ${child.exitCode}`
    return localRedisError(`${binary.path} ${how} while starting, ${await lastWords(files, logStart)}`)
  }
  // Until it answers, its pid file may be half written, so the lock is held until then.
  const answer = await firstAnswer(files, pid, wait).catch(async (error: unknown) => {
    await end() // nobody has joined it yet, and whoever looks for it by that file may not find it
    throw error
  })
  if (!answer) throw await diedEarly()
  answer.socket.destroy()
  const recorded = serverPid(files) // another pid where the program is a wrapper that starts the server
  if (recorded === undefined) throw await withoutRecord()
  return { pid: recorded, diedEarly }
}

async function lastWords(files: LocalRedisFiles, logStart: number): Promise<string> {
  const log = (await readFile(files.log)).subarray(logStart).toString().trim()
  if (log === '') return `without a word in ${files.log} (is the disk full?)`
  const lines = log.split('\n').slice(-QUOTED_LOG_LINES)
  return `its last words in ${files.log}:${lines.map((line) => `\n  ${line.slice(0, 300)}`).join('')}`
}

/**
 * A connection to the server once it has its data; undefined when it dies before. There is no deadline while it
 * says that it is loading: a large append-only file takes its time.
 */
export async function connectWhenLoaded(
  files: LocalRedisFiles,
  pid: number,
  wait: LockWait,
): Promise<Socket | undefined> {
  for (;;) {
    const answer = await firstAnswer(files, pid, wait)
    if (!answer) return undefined
    if (answer.reply.startsWith('+PONG')) return answer.socket
    answer.socket.destroy()
    if (!answer.reply.startsWith('-LOADING')) {
      throw localRedisError(`the server on ${files.socket} answers PING with ${JSON.stringify(answer.reply)}`)
    }
    await pause(wait)
  }
}

async function firstAnswer(files: LocalRedisFiles, pid: number, wait: LockWait): Promise<Answer | undefined> {
  const deadline = performance.now() + SILENCE_DEADLINE_MS
  let strange = 0
  while (startTimeOf(pid) !== undefined) {
    // A wrapper that becomes the server, and one that writes its title, has for a moment no arguments to know it by.
    strange = isServer(pid, files) ? 0 : strange + 1
    if (strange > STRANGE_LOOKS) break
    const answer = await ping(files.socket, wait.ref)
    if (answer) return answer
    if (performance.now() > deadline) {
      throw localRedisError(
        `the server (pid ${pid}) has not answered on ${files.socket} for ${SILENCE_DEADLINE_MS / 1000} s; its log is ${files.log}`,
      )
    }
    await pause(wait)
  }
  return undefined
}

interface Answer {
  readonly socket: Socket
  readonly reply: string
}

/** One PING on a connection of its own; undefined when nobody answers it. */
function ping(socketPath: string, ref: boolean): Promise<Answer | undefined> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(socketPath)
    if (!ref) socket.unref()
    let reply = ''
    const giveUp = (error?: NodeJS.ErrnoException): void => {
      socket.removeAllListeners()
      socket.on('error', () => {}).destroy()
      const nobody = !error || ['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(error.code ?? '')
      if (nobody) resolve(undefined)
      else reject(error)
    }
    socket.on('data', (chunk) => {
      reply += chunk.toString('latin1')
      if (!reply.includes('\n')) return
      socket.removeAllListeners()
      socket.setTimeout(0)
      resolve({ socket, reply: reply.trim() })
    })
    socket.once('error', giveUp)
    socket.once('close', () => giveUp())
    socket.setTimeout(REPLY_DEADLINE_MS, () => giveUp())
    socket.write('PING\r\n')
  })
}

/** Under the lock, as its last user; resolves when the process has gone. `known` helps when the pid file is lost. */
export async function stopServer(files: LocalRedisFiles, known: number | undefined): Promise<void> {
  const pid = serverPid(files) ?? known
  if (pid === undefined || !isServer(pid, files)) return
  const startTime = startTimeOf(pid)
  const deadline = performance.now() + STOP_DEADLINE_MS
  // SIGTERM is Redis' SHUTDOWN: it flushes and fsyncs the append-only file first.
  sendSignal(pid, 'SIGTERM')
  for (let killed = false; startTimeOf(pid) === startTime; await delay(20)) {
    if (performance.now() < deadline) continue
    if (!killed) sendSignal(pid, 'SIGKILL')
    else if (performance.now() > deadline + STOP_DEADLINE_MS)
      throw localRedisError(`redis-server (pid ${pid}) does not die of SIGKILL`)
    killed = true
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error // gone by itself
  }
}
