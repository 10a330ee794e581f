import { createHash } from 'node:crypto'
import { chmod, lstat, mkdir, rename, stat, writeFile } from 'node:fs/promises'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { messageOf } from '../core/errors.ts'
import { localRedisError } from './server-binary.ts'

/** sun_path holds 108 bytes on Linux and 104 on macOS, and a longer path is cut without a word. */
const MAX_SOCKET_PATH_BYTES = 100
const MAX_LOG_BYTES = 1 << 20
const ELSEWHERE = 'set XDG_STATE_HOME to a directory of this user, or REDIS_URL to a Redis you already run'

/** Where everything of one app's managed Redis lies. */
export interface LocalRedisFiles {
  readonly dir: string
  readonly socket: string
  readonly config: string
  readonly log: string
  readonly pid: string
  readonly lock: string
  readonly users: string
}

export interface LocalRedisPlace {
  /** The app's name; characters that do not belong in a file name are replaced. */
  name: string
  /** The app's directory: two checkouts of one app get two servers. Hashed as given, symlinks are not followed. */
  cwd: string
  /** @default $XDG_STATE_HOME, else ~/.local/state */
  stateHome?: string | undefined
  /** @default process.env */
  env?: NodeJS.ProcessEnv | undefined
}

/** Computes the paths, touches nothing. */
export function localRedisFiles({
  name,
  cwd,
  stateHome,
  env = process.env,
}: LocalRedisPlace): LocalRedisFiles {
  const home = stateHome ?? stateHomeOf(env)
  const hash = createHash('sha256')
    .update(`${name}\0${resolve(cwd)}`)
    .digest('hex')
    .slice(0, 10)
  const readable = name
    .replace(/[^A-Za-z0-9._-]+/g, '_')
    .replace(/^[._]+/, '')
    .slice(0, 32)
  const dir = join(home, 'as-one', `${readable || 'app'}-${hash}`)
  const inDir = (file: string): string => join(dir, file)
  const files = {
    dir,
    socket: inDir('redis.sock'),
    config: inDir('redis.conf'),
    log: inDir('redis.log'),
    pid: inDir('redis.pid'),
    lock: inDir('lock'),
    users: inDir('users'),
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a line break would end a line of the configuration file
  if (/[\x00-\x1f\x7f]/.test(dir))
    throw localRedisError(`${JSON.stringify(dir)} has control characters in it: ${ELSEWHERE}`)
  const bytes = Buffer.byteLength(files.socket)
  if (bytes > MAX_SOCKET_PATH_BYTES) {
    throw localRedisError(
      `the socket path ${files.socket} is ${bytes} bytes long, a unix socket takes ${MAX_SOCKET_PATH_BYTES}: set XDG_STATE_HOME to a shorter directory, or REDIS_URL to a Redis you already run`,
    )
  }
  return files
}

/** @throws SharedStateError when the environment names no such place */
export function stateHomeOf(env: NodeJS.ProcessEnv): string {
  const { XDG_STATE_HOME: xdg, HOME: home } = env
  if (xdg) {
    if (isAbsolute(xdg)) return xdg
    throw localRedisError(`XDG_STATE_HOME must be an absolute path, got ${JSON.stringify(xdg)}`)
  }
  if (home && isAbsolute(home)) return join(home, '.local', 'state')
  throw localRedisError(
    `neither XDG_STATE_HOME nor HOME is set, so there is no place for data of ours: ${ELSEWHERE}`,
  )
}

/**
 * Makes the directory, or checks the one that is there: whoever can write to it can make redis-server write
 * anywhere we can.
 */
export async function prepareDirectory(files: LocalRedisFiles): Promise<void> {
  await preparePrivate([dirname(files.dir), files.dir, files.users])
}

/** Makes the last of these directories, each the parent of the next, with all above it; checks that they are ours alone. */
export async function preparePrivate(paths: readonly string[]): Promise<void> {
  const last = paths.at(-1) as string
  try {
    await makeDirectory(last)
  } catch (error) {
    throw localRedisError(`cannot create ${last}: ${messageOf(error)}: ${ELSEWHERE}`, error)
  }
  for (const path of paths) await checkPrivate(path)
}

/** Not `recursive`: where a file system answers ENOENT to mkdir (/proc, an automounted /home), Node then never returns. */
async function makeDirectory(path: string, mayMakeParent = true): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || !mayMakeParent || dirname(path) === path) throw error
    await makeDirectory(dirname(path))
    await makeDirectory(path, false)
  }
}

async function checkPrivate(path: string): Promise<void> {
  const found = await lstat(path)
  const refuse = (what: string): Error => localRedisError(`${path} ${what}: remove it, or ${ELSEWHERE}`)
  if (found.isSymbolicLink()) throw refuse('is a symbolic link')
  if (!found.isDirectory()) throw refuse('is no directory')
  const uid = process.getuid?.()
  if (uid !== undefined && found.uid !== uid)
    throw refuse(`belongs to user id ${found.uid}, this process runs as ${uid}`)
  const mode = found.mode & 0o777
  if (mode & 0o022) throw refuse(`may be written by others (mode 0${mode.toString(8)}, expected 0700)`)
  if (mode & 0o077) await chmod(path, 0o700)
}

/** What the server runs with. Written at every start, so that a new release may change it. */
export async function writeConfig(files: LocalRedisFiles): Promise<void> {
  const quoted = (path: string): string => `"${path.replace(/["\\]/g, '\\$&')}"`
  const lines = [
    'port 0',
    `unixsocket ${quoted(files.socket)}`,
    'unixsocketperm 700',
    `dir ${quoted(files.dir)}`,
    `pidfile ${quoted(files.pid)}`,
    `logfile ${quoted(files.log)}`,
    'appendonly yes',
    'appendfsync everysec',
    'save ""',
    'daemonize no',
    // The command line is how everybody recognises the process as ours before sending it a signal.
    'set-proc-title no',
  ]
  await writeFile(files.config, `${lines.join('\n')}\n`, { mode: 0o600 })
}

/** Makes sure the log is ours alone and bounded; returns where the next start's lines will begin. */
export async function prepareLog(files: LocalRedisFiles): Promise<number> {
  await writeFile(files.log, '', { flag: 'a', mode: 0o600 })
  const { size } = await stat(files.log)
  if (size <= MAX_LOG_BYTES) return size
  await rename(files.log, `${files.log}.1`)
  await writeFile(files.log, '', { flag: 'wx', mode: 0o600 })
  return 0
}
