import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, statSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { builtFile } from '../core/built-file.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { type AppSource, resolveSource } from './app-source.ts'
import { appFiles, prepareAppDir } from './apps-dir.ts'
import { hostApp } from './host.ts'

const MAIN = fileURLToPath(builtFile('cli/main.js'))
const MAX_PRIMARY_LOG_BYTES = 1 << 20

/** What the process learns over fd 3, where no other user's `ps` can see it. */
interface Order {
  readonly source: AppSource
  readonly output: 'files' | 'prefix' | 'json'
}

export type HostReport =
  | {
      readonly ok: true
      readonly name: string
      readonly pid: number
      readonly workers: number
      readonly redis: string
      readonly warnings: readonly string[]
    }
  | { readonly ok: false; readonly message: string }

export interface HostProcess {
  readonly child: ChildProcess
  /** Once its workers serve, or it has given up. */
  readonly report: Promise<HostReport>
}

/** In a session of its own: it outlives the terminal. Its own words and what Node says of a crash go to a file. */
export async function spawnBackground(name: string, source: AppSource): Promise<HostProcess> {
  const files = appFiles(name)
  await prepareAppDir(files)
  const log = openSync(files.primary, isLarge(files.primary) ? 'w' : 'a', 0o600)
  try {
    const child = spawn(process.execPath, [MAIN, 'host', name], {
      cwd: files.dir,
      detached: true,
      stdio: ['ignore', log, log, 'pipe'],
    })
    const report = converse(child, { source, output: 'files' }).then((answer) => {
      ;(child.stdio[3] as Socket).destroy()
      child.unref()
      return answer
    })
    return { child, report }
  } finally {
    closeSync(log)
  }
}

/** A member of our own foreground group, which ends when we do. */
export function spawnForeground(name: string, source: AppSource, output: 'prefix' | 'json'): HostProcess {
  const child = spawn(process.execPath, [MAIN, 'host', name], {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
  })
  return { child, report: converse(child, { source, output }) }
}

function converse(child: ChildProcess, order: Order): Promise<HostReport> {
  const channel = child.stdio[3] as Socket
  channel.on('error', () => {}) // it has ended, which 'close' tells too
  channel.write(`${JSON.stringify(order)}\n`)
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ ok: false, message: messageOf(error) }))
    void firstLine(channel).then((line) =>
      resolve(
        line === undefined
          ? { ok: false, message: 'it ended before it was ready' }
          : (JSON.parse(line) as HostReport),
      ),
    )
  })
}

/** The other end: a command for ourselves alone. */
export function addHost(program: Command): void {
  program
    .command('host', { hidden: true })
    .argument('[name]', 'for ps')
    .action(async () => {
      const channel = new Socket({ fd: 3 })
      const line = await firstLine(channel)
      if (line === undefined)
        throw new SharedStateError('ERR_AS_ONE_OPTIONS', 'host is for as-one itself: use start')
      const { source, output } = JSON.parse(line) as Order
      const answer = (report: HostReport): void => void channel.write(`${JSON.stringify(report)}\n`)
      channel.on('error', () => {}) // whoever has started us has gone; what they asked for goes on
      if (output !== 'files') channel.once('close', () => process.kill(process.pid, 'SIGTERM'))
      try {
        const { name, handle, warnings } = await hostApp(source, {
          output,
          controlRequired: output === 'files',
        })
        const { pid, workers, redis } = handle.status()
        answer({ ok: true, name, pid, workers: workers.length, redis, warnings })
      } catch (error) {
        answer({ ok: false, message: messageOf(error) })
        process.stderr.write(`as-one: ${messageOf(error)}\n`)
        setTimeout(() => process.exit(1), 50) // when the answer has gone out
      }
    })
}

function firstLine(stream: Readable): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = ''
    const onData = (chunk: Buffer): void => {
      text += chunk.toString()
      const end = text.indexOf('\n')
      if (end < 0) return
      stream.off('data', onData)
      stream.resume()
      resolve(text.slice(0, end))
    }
    stream.on('data', onData)
    stream.once('close', () => resolve(undefined))
    stream.once('end', () => resolve(undefined))
  })
}

function isLarge(path: string): boolean {
  try {
    return statSync(path).size > MAX_PRIMARY_LOG_BYTES
  } catch {
    return false // not there yet
  }
}

/** The name an app will run under. */
export async function nameFor(source: AppSource): Promise<string> {
  return (await resolveSource(source)).name
}
