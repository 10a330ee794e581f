import { accessSync, constants, mkdtempSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { Redis, type RedisOptions } from 'ioredis'
import { type Guarded, spawnGuarded } from './guard.ts'
import { freePort } from './ports.ts'
import { isAlive, sendSignal, stateOf } from './processes.ts'
import { until } from './until.ts'

/** What a test may say about a connection; RESP2-shaped replies are what the package itself works with. */
export type ClientOptions = Omit<RedisOptions, 'replyMapping'>

export interface RedisServerOptions {
  /** Further arguments, after ours: `['--maxmemory', '10mb']`. Leave the log alone: it tells when we are ready. */
  args?: readonly string[]
  /** Working directory, never removed. @default a temporary one, removed at stop() */
  dir?: string
  /** Append-only file, so that data survive kill() and restart(). @default false */
  persist?: boolean
  /** Listen on a unix socket too, and let `url` and client() use it. @default false */
  socket?: boolean
  /** @default a random free one */
  port?: number
  /** `'8'` takes the binary named by AS_ONE_REDIS_SERVER_8. @default REDIS_SERVER, or the first on the PATH */
  version?: string
  /** Content of a configuration file, for a server that wants to rewrite it: a sentinel keeps its state there. */
  config?: string
  /** Choose the port so that the cluster bus has one too. @default false */
  clusterBus?: boolean
}

/** One real Redis process that a test may freeze, kill and bring back. */
export interface PrivateRedis extends AsyncDisposable {
  readonly url: string
  readonly port: number
  readonly socketPath?: string
  readonly dir: string
  /** Changes with restart(). */
  readonly pid: number
  readonly running: boolean
  /** What the server has logged since its first start. */
  log(): string
  /** A plain connection for looking and arranging, closed by stop(). */
  client(options?: ClientOptions): Redis
  /** Freezes the process: connections stay open and silent. */
  pause(): Promise<void>
  resume(): Promise<void>
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>
  /** Kills what still runs and starts again with the same port, directory and arguments. */
  restart(): Promise<void>
  stop(): Promise<void>
}

/** The server binary of this version, or undefined: `describe.runIf(redisBinary('8'))`. */
export function redisBinary(version?: string): string | undefined {
  const named = version ? process.env[`AS_ONE_REDIS_SERVER_${version}`] : process.env.REDIS_SERVER
  if (version || named) return named && findExecutable(named)
  return findExecutable('redis-server') ?? findExecutable('valkey-server')
}

function findExecutable(name: string): string | undefined {
  const dirs = name.includes('/') ? [''] : (process.env.PATH ?? '').split(delimiter)
  return dirs.map((dir) => join(dir, name)).find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function requireBinary(version?: string): string {
  const binary = redisBinary(version)
  if (binary) return binary
  const variable = version ? `AS_ONE_REDIS_SERVER_${version}` : 'REDIS_SERVER'
  const named = process.env[variable]
  if (named) throw new Error(`${variable}=${named} is no executable`)
  throw new Error(version ? `${variable} is not set` : 'no redis-server or valkey-server on the PATH')
}

/** Starts a server and waits until it answers. Use `startRedis` in tests: it also cleans up after itself. */
export async function spawnRedis(options: RedisServerOptions = {}): Promise<PrivateRedis> {
  const binary = requireBinary(options.version)
  const ownDir = options.dir === undefined
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'as-one-redis-'))
  const socketPath = options.socket ? join(dir, 'redis.sock') : undefined
  const clients = new Set<Redis>()
  const logged: string[] = []
  let port = options.port ?? 0
  if (options.config !== undefined) writeFileSync(join(dir, configFile), options.config)
  let guarded: Guarded | undefined

  async function start(): Promise<void> {
    const args = argumentsFor(options, { port, dir, socketPath })
    guarded = spawnGuarded(binary, args, { env: process.env, cwd: dir, ...(ownDir && { tmp: dir }) })
    const started = guarded
    const from = logged.length
    for (const stream of [started.child.stdout, started.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => logged.push(text))
    }
    const died = started.exit.then(() => {
      throw new RedisExitedError(`${binary} exited: ${lastWords(logged.slice(from))}`)
    })
    died.catch(() => {}) // every server dies one day; only before it is ready this is news
    try {
      const ready = () => readyLine.test(logged.slice(from).join(''))
      await Promise.race([until(ready, { what: `${binary} to be ready`, deadline: 20_000, every: 3 }), died])
    } catch (error) {
      await end('SIGKILL')
      throw error
    }
  }

  /** Waits until the process is gone: only then are its port and its files free. */
  async function end(signal: NodeJS.Signals): Promise<void> {
    if (!guarded) return
    const { child, exit, release } = guarded
    guarded = undefined
    child.kill(signal)
    child.kill('SIGCONT') // a frozen process would see SIGTERM only when thawed
    const slow = setTimeout(() => child.kill('SIGKILL'), 5_000)
    await exit
    clearTimeout(slow)
    release()
  }

  const server: PrivateRedis = {
    get url() {
      return socketPath ? `unix://${socketPath}` : `redis://127.0.0.1:${port}`
    },
    get port() {
      return port
    },
    ...(socketPath && { socketPath }),
    dir,
    get pid() {
      if (!guarded?.child.pid) throw new Error('this redis is not running')
      return guarded.child.pid
    },
    get running() {
      return guarded?.child.pid !== undefined && isAlive(guarded.child.pid)
    },
    log: () => logged.join(''),
    client(clientOptions = {}) {
      const target = socketPath ? { path: socketPath } : { host: '127.0.0.1', port }
      const client = new Redis({ ...target, ...clientOptions })
      client.on('error', () => {}) // a test that kills its server knows; commands reject anyway
      client.once('end', () => clients.delete(client))
      clients.add(client)
      return client
    },
    async pause() {
      const { pid } = server
      sendSignal(pid, 'SIGSTOP')
      await until(() => stateOf(pid) === 'T', { what: 'redis to be stopped', every: 1 })
    },
    async resume() {
      const { pid } = server
      sendSignal(pid, 'SIGCONT')
      await until(() => stateOf(pid) !== 'T', { what: 'redis to go on', every: 1 })
    },
    kill: () => end('SIGKILL'),
    async restart() {
      await end('SIGKILL')
      await start()
    },
    async stop() {
      for (const client of clients) client.disconnect()
      await end('SIGTERM')
      if (ownDir) await rm(dir, { recursive: true, force: true })
    },
    [Symbol.asyncDispose]: () => server.stop(),
  }

  try {
    for (let attempt = 1; ; attempt++) {
      port = options.port ?? (await freePort(options))
      try {
        await start()
        return server
      } catch (error) {
        const taken = error instanceof RedisExitedError && /address already in use/i.test(error.message)
        if (!taken || options.port !== undefined || attempt === 5) throw error
      }
    }
  } catch (error) {
    await server.stop()
    throw error
  }
}

const configFile = 'redis.conf'

class RedisExitedError extends Error {}

// Its own word, not an answer on the port: there it could be another server that was quicker to take it.
const readyLine = /Ready to accept connections|Sentinel ID is/

function argumentsFor(
  { config, persist, args = [] }: RedisServerOptions,
  { port, dir, socketPath }: { port: number; dir: string; socketPath: string | undefined },
): string[] {
  const own = ['--port', String(port), '--bind', '127.0.0.1', '--dir', dir]
  if (config !== undefined) return [join(dir, configFile), ...own, ...args]
  // Killed is not powered off: what is written is kept. An fsync on a slow disk would hold back what was acknowledged.
  const saving = persist ? ['--appendonly', 'yes', '--appendfsync', 'no'] : ['--appendonly', 'no']
  const socket = socketPath ? ['--unixsocket', socketPath, '--unixsocketperm', '700'] : []
  return [...own, '--save', '', ...saving, ...socket, ...args]
}

function lastWords(logged: readonly string[]): string {
  const lines = logged.join('').trim().split('\n')
  return lines.slice(-3).join(' | ') || 'without a word'
}
