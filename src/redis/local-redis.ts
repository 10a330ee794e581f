import { EventEmitter } from 'node:events'
import { rm, writeFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { aborted } from '../core/abort.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { Guardian } from '../core/guardian.ts'
import {
  type LocalRedisFiles,
  type LocalRedisPlace,
  localRedisFiles,
  prepareDirectory,
} from './local-redis-dir.ts'
import { startRedisGuardian } from './local-redis-guardian.ts'
import {
  isMissing,
  type LockWait,
  livingUsers,
  newProcessName,
  pause,
  underLock,
} from './local-redis-lock.ts'
import { connectWhenLoaded, findOrStartServer, type LocalServer, stopServer } from './local-redis-server.ts'
import { findServerBinary, localRedisError, type ServerBinary } from './server-binary.ts'

const BACKOFF_MS = { min: 100, max: 10_000 } as const
/** The backoff starts anew for a server that was up this long. */
const STABLE_AFTER_MS = 10_000

export interface LocalRedisOptions extends LocalRedisPlace {
  /** Ends the start; what has been started is stopped again. */
  signal?: AbortSignal | undefined
  /** How long the server outlives its last user, when that one had no time to stop it. @default 30_000 */
  graceMs?: number | undefined
}

export interface LocalRedisEvents {
  /** The server died, and a new one has its data; `startedHere` is true for exactly one of its users. */
  restarted: [{ pid: number; startedHere: boolean }]
  /** The server died, and an attempt to bring it back failed; further attempts follow, at the latest every 10 s. */
  down: [SharedStateError]
}

/** One user's hold on the managed Redis of an app. */
export interface LocalRedis extends AsyncDisposable {
  readonly socketPath: string
  /** For `REDIS_URL`: `unix:///path`, percent-encoded. */
  readonly url: string
  readonly dir: string
  /** The server's process id, undefined while it is down. */
  pid(): number | undefined
  on<E extends keyof LocalRedisEvents>(event: E, listener: (...args: LocalRedisEvents[E]) => void): this
  off<E extends keyof LocalRedisEvents>(event: E, listener: (...args: LocalRedisEvents[E]) => void): this
  /** Idempotent. The last user to leave stops the server, and this resolves when its process has gone. */
  stop(): Promise<void>
}

/**
 * Starts a private redis-server (or valkey-server) on a unix socket, or joins the one that runs for this app, and
 * keeps it running until `stop()`. Never keeps the process alive by itself.
 *
 * @throws SharedStateError `ERR_AS_ONE_LOCAL_REDIS` with what to do, `ERR_AS_ONE_ABORTED`
 * @example
 * const redis = await startLocalRedis({ name: 'shop', cwd: process.cwd() })
 */
export async function startLocalRedis(options: LocalRedisOptions): Promise<LocalRedis> {
  const redis = new ManagedRedis(localRedisFiles(options), options.env ?? process.env)
  await redis.start(options.graceMs ?? 30_000, options.signal)
  return redis
}

class ManagedRedis extends EventEmitter<LocalRedisEvents> implements LocalRedis {
  readonly socketPath: string
  readonly url: string
  readonly dir: string
  readonly #files: LocalRedisFiles
  readonly #env: NodeJS.ProcessEnv
  readonly #user = newProcessName()
  readonly #stopping = new AbortController()
  #registered = false
  #binary: ServerBinary | undefined
  #guardian: Guardian | undefined
  #pid: number | undefined
  /** Kept while the server is down. */
  #lastPid: number | undefined
  #upSince = 0
  #failures = 0
  #link: Socket | undefined
  #recovery: Promise<void> = Promise.resolve()
  #stopped: Promise<void> | undefined

  constructor(files: LocalRedisFiles, env: NodeJS.ProcessEnv) {
    super()
    this.#files = files
    this.#env = env
    this.dir = files.dir
    this.socketPath = files.socket
    this.url = `unix://${pathToFileURL(files.socket).pathname}`
  }

  pid(): number | undefined {
    return this.#pid
  }

  async start(graceMs: number, signal: AbortSignal | undefined): Promise<void> {
    const files = this.#files
    const wait: LockWait = { signal, ref: true }
    try {
      signal?.throwIfAborted()
      this.#binary = await findServerBinary(this.#env)
      await prepareDirectory(files)
      await underLock(files, wait, async () => {
        this.#registered = true
        await writeFile(join(files.users, this.#user), '', { mode: 0o600 })
        this.#guardian = await startRedisGuardian(files, this.#user, graceMs, this.#env)
        // Only now: until our own guardian runs, the guardians of the dead are the ones that stop the server.
        await livingUsers(files)
      })
      await this.#join(wait)
    } catch (error) {
      const reason = signal?.aborted ? aborted(signal) : this.#asOurs(error)
      await this.stop().catch((failure: unknown) => {
        throw new SharedStateError(
          reason.code,
          `${reason.message}; cleaning up failed too: ${messageOf(failure)}`,
          {
            cause: error,
          },
        )
      })
      throw reason
    }
  }

  async #join(wait: LockWait): Promise<LocalServer> {
    const files = this.#files
    const binary = this.#binary as ServerBinary
    for (;;) {
      const server = await underLock(files, wait, () => findOrStartServer(files, binary, this.#env, wait))
      const link = await connectWhenLoaded(files, server.pid, wait)
      if (link) {
        this.#watch(link, server.pid)
        return server
      }
      // One that somebody else started and that died meanwhile is theirs to explain: look again.
      if (server.diedEarly) throw await server.diedEarly()
    }
  }

  /** The connection ends the moment the server dies, whoever started it. */
  #watch(link: Socket, pid: number): void {
    this.#pid = pid
    this.#lastPid = pid
    this.#link = link
    this.#upSince = performance.now()
    const onClose = (): void => {
      if (!this.#stopping.signal.aborted) this.#recovery = this.#recover(pid)
    }
    link.on('error', () => {}) // 'close' follows and is what counts
    link.unref()
    link.resume()
    if (link.destroyed) onClose()
    else link.once('close', onClose)
  }

  async #recover(previous: number): Promise<void> {
    const { signal } = this.#stopping
    const wait: LockWait = { ref: false, signal }
    this.#pid = undefined
    if (performance.now() - this.#upSince > STABLE_AFTER_MS) this.#failures = 0
    while (!signal.aborted) {
      try {
        await pause(wait, backoffMs(this.#failures++))
        const { pid, diedEarly } = await this.#join(wait)
        // On the next tick, so that a listener that throws does not end the supervision.
        const restarted = { pid, startedHere: diedEarly !== undefined }
        if (pid !== previous) process.nextTick(() => this.emit('restarted', restarted))
        return
      } catch (error) {
        if (signal.aborted) return
        const reason = this.#asOurs(error)
        process.nextTick(() => this.emit('down', reason))
      }
    }
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#leave()
    return this.#stopped
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #leave(): Promise<void> {
    this.#stopping.abort()
    await this.#recovery
    this.#link?.destroy()
    this.#pid = undefined
    if (!this.#registered) return
    try {
      await underLock(this.#files, { ref: true }, async () => {
        await rm(join(this.#files.users, this.#user), { force: true })
        if ((await livingUsers(this.#files)).length === 0) await stopServer(this.#files, this.#lastPid)
      })
    } catch (error) {
      // Somebody removed the directory under the running server: nobody can join that one any more.
      if (!isMissing(error)) throw error
      await stopServer(this.#files, this.#lastPid)
    } finally {
      await this.#guardian?.close()
    }
  }

  #asOurs(error: unknown): SharedStateError {
    if (error instanceof SharedStateError) return error
    return localRedisError(
      `the managed Redis in ${this.dir} does not start: ${messageOf(error)}; set XDG_STATE_HOME to another directory, or REDIS_URL to a Redis you already run`,
      error,
    )
  }
}

function backoffMs(failures: number): number {
  return failures === 0 ? 0 : Math.min(BACKOFF_MS.max, BACKOFF_MS.min * 2 ** (failures - 1))
}
