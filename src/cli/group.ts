import type { ChildProcess } from 'node:child_process'
import { SharedStateError } from '../core/errors.ts'
import type { AppSource } from './app-source.ts'
import { type HostReport, spawnForeground } from './host-process.ts'
import { plural, say } from './say.ts'

export interface Member {
  readonly name: string
  readonly source: AppSource
}

export interface GroupOptions {
  readonly output: 'prefix' | 'json'
  /** Else it is enough that one does. */
  readonly allMustStart: boolean
  notify(...state: readonly string[]): Promise<void>
}

const FIRST_RETRY_MS = 1_000
const LAST_RETRY_MS = 30_000
const STABLE_MS = 30_000

/**
 * Several apps in the foreground, each with a primary of its own. This process only passes signals on, and starts a
 * primary again that has been killed; one that was stopped stays away. Ends when none is left.
 *
 * @throws SharedStateError `ERR_AS_ONE_BOOT` when they do not start; nothing is left running then
 */
export async function runGroup(members: readonly Member[], options: GroupOptions): Promise<void> {
  const children = new Map<string, ChildProcess>()
  let stopping = false
  let retries = 0

  const start = (member: Member, failures: number): Promise<HostReport> => {
    const begunAt = Date.now()
    const { child, report } = spawnForeground(member.name, member.source, options.output)
    children.set(member.name, child)
    let started = false
    const known = report.then((outcome) => {
      started = outcome.ok
      if (outcome.ok) outcome.warnings.forEach(say)
      return outcome
    })
    child.once('exit', (code, signal) => {
      children.delete(member.name)
      if ((started || failures > 0) && !stopping && code !== 0)
        again(member, Date.now() - begunAt > STABLE_MS ? 0 : failures, signal ?? `exit code ${code}`)
      else endIfAlone()
    })
    return known
  }
  const again = (member: Member, failures: number, how: string): void => {
    const delayMs = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** failures)
    say(`${member.name}: its primary has ended (${how}), next attempt in ${delayMs} ms`)
    retries += 1
    setTimeout(() => {
      retries -= 1
      if (stopping) endIfAlone()
      else void start(member, failures + 1)
    }, delayMs)
  }
  const endIfAlone = (): void => {
    if (children.size === 0 && retries === 0) process.exit(process.exitCode ?? 0)
  }
  const pass = (signal: NodeJS.Signals): void => {
    if (signal === 'SIGTERM' || signal === 'SIGINT') {
      stopping = true
      void options.notify('STOPPING=1')
      if (children.size === 0) process.exit(0)
    }
    for (const child of children.values()) child.kill(signal)
  }
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const) process.on(signal, pass)

  const outcomes = await Promise.all(members.map((member) => start(member, 0)))
  const failed = members.filter((_, index) => !outcomes[index]?.ok)
  if (failed.length > 0 && (options.allMustStart || failed.length === members.length)) {
    process.exitCode = 1
    stopping = true
    for (const child of children.values()) child.kill('SIGTERM')
    throw new SharedStateError(
      'ERR_AS_ONE_BOOT',
      `${failed.map(({ name }) => name).join(', ')} did not start`,
    )
  }
  const running = members.length - failed.length
  say(
    `${plural(running, 'app')} running: ${members
      .filter((_, index) => outcomes[index]?.ok)
      .map(({ name }) => name)
      .join(', ')}`,
  )
  await options.notify('--ready', `--status=${plural(running, 'app')} running`)
}
