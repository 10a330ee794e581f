import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'

/**
 * A few lines of sh that outlive this process, however it ends, to clear up after it: they read their standard input,
 * whose other end only this process holds. Waiting for years costs one small process and nothing else, as long as the
 * script keeps to what is built into every sh.
 */
export interface Guardian {
  /** A line for its standard input. */
  tell(line: string): void
  /** To be called when it has nothing to do any more and ends at the end of its input. */
  close(): Promise<void>
}

export interface GuardianScript {
  /** As `ps` shows it. */
  readonly name: string
  readonly script: string
  readonly args: readonly string[]
  readonly env: NodeJS.ProcessEnv
  /** The lines that one which takes the place of a killed one must know. */
  briefing?(): readonly string[]
}

/**
 * A function for such a script: `startTimeOf pid` sets `started`, fails for a process that is gone or a zombie. A pid
 * alone may be somebody else's by now.
 */
export const START_TIME_OF = `
startTimeOf() {
  if [ -r /proc/self/stat ]; then
    stat=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null
    set -- \${stat##*") "}
    case $1 in Z | X) return 1 ;; esac
    [ $# -ge 20 ] || return 1
    shift 19
    started=$1
  else
    started=$(LC_ALL=C ps -o lstart= -p "$1" | tr -cs A-Za-z0-9 _)
    [ -n "$started" ]
  fi
}
`

const REPLACE_AFTER_MS = 1_000
const CLOSE_DEADLINE_MS = 2_000

/**
 * One that is killed is replaced: without it our own SIGKILL would leave behind what it guards. Rejects where there is
 * no sh.
 */
export async function startGuardian(guardian: GuardianScript): Promise<Guardian> {
  let closed = false
  let replacing: NodeJS.Timeout | undefined
  const start = (): ChildProcess => {
    const child = spawnGuardian(guardian)
    const replace = (): void => {
      if (closed) return
      replacing = setTimeout(() => {
        current = start()
      }, REPLACE_AFTER_MS).unref()
    }
    for (const line of guardian.briefing?.() ?? []) child.stdin?.write(`${line}\n`)
    return child.once('error', replace).once('exit', replace)
  }
  let current = start()
  if (current.pid === undefined) {
    closed = true
    await once(current, 'spawn') // rejects with the reason
  }
  return {
    tell(line) {
      current.stdin?.write(`${line}\n`)
    },
    async close() {
      closed = true
      clearTimeout(replacing)
      const { pid, exitCode, signalCode } = current
      if (pid === undefined || exitCode !== null || signalCode !== null) return
      current.ref()
      const ended = once(current, 'exit')
      const stubborn = setTimeout(() => current.kill('SIGKILL'), CLOSE_DEADLINE_MS)
      current.stdin?.destroy()
      await ended
      clearTimeout(stubborn)
    },
  }
}

function spawnGuardian({ name, script, args, env }: GuardianScript): ChildProcess {
  // Its own session keeps Ctrl-C away from it. Node opens the pipe close-on-exec: a worker that inherited our end
  // would keep the guardian waiting for as long as it lives.
  const child = spawn('/bin/sh', ['-c', script, name, ...args], {
    cwd: '/',
    env: { ...env, PATH: `${env.PATH ?? ''}:/usr/bin:/bin` },
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  child.stdin?.on('error', () => {}) // the pipe breaks when the guardian dies, and 'exit' tells that
  ;(child.stdin as Socket | null)?.unref()
  child.unref()
  return child
}
