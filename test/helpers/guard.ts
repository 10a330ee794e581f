import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { Writable } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { commandOf } from './processes.ts'

/** Inherited by everything a guarded process starts, and so the mark of its tree even when parents have died. */
export const treeVariable = 'AS_ONE_TEST_TREE'

/**
 * Runs before the command, then becomes it (`exec`: same pid, its exit is the child's exit). It leaves behind a
 * watcher on a pipe whose other end only we hold. However we die, SIGKILL included, the pipe ends without the
 * word "released", and the watcher kills the tree: everything that carries the mark or lives in the temporary
 * directory, which it then removes. Forked twice, so that the watcher is no child of the guarded process.
 */
const script = `
tmp=$1
shift
(
  (
    exec >/dev/null 2>&1 4>&-
    cd /
    trap '' HUP INT QUIT TERM
    main=$$
    while read -r word <&3; do
      case $word in
        exited) main= ;;
        released) exit ;;
      esac
    done
    [ -z "$main" ] || kill -9 "$main"
    read -r self rest </proc/self/stat
    for round in 1 2 3 4 5; do # a supervisor may fork between look and kill
      found=$(
        grep -lsaF "${treeVariable}=$${treeVariable}" /proc/[0-9]*/environ
        [ -z "$tmp" ] || find /proc/[0-9]*/cwd -maxdepth 0 \\( -lname "$tmp" -o -lname "$tmp/*" \\)
      )
      for file in $found; do
        pid=\${file#/proc/}
        pid=\${pid%/*}
        [ "$pid" = "$self" ] || kill -9 "$pid"
      done
    done
    [ -z "$tmp" ] || rm -rf -- "$tmp"
  ) &
)
exec "$@" 3>&-
`

export interface GuardedOptions {
  env: NodeJS.ProcessEnv
  cwd: string
  /** Removed by the watcher, with all processes that live in it, if we die. */
  tmp?: string
  /** With an IPC channel, as `fork` has it. */
  ipc?: boolean
  /** In a process group of its own, so that a signal can go to all of it like a terminal's Ctrl-C. */
  group?: boolean
}

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface Guarded {
  child: ChildProcess
  /** Resolves when the process is gone and has said all it had to say. */
  exit: Promise<Exit>
  /** The value of `treeVariable` in everything this process starts. */
  tree: string
  /** Dismisses the watcher: from now on nobody kills what is left of the tree. */
  release(): void
}

/** Starts a process that does not outlive us. */
export function spawnGuarded(command: string, args: readonly string[], options: GuardedOptions): Guarded {
  const tree = randomUUID()
  const stdio: SpawnOptions['stdio'] = ['ignore', 'pipe', 'pipe', 'pipe']
  const child = spawn('/bin/sh', ['-c', script, 'as-one-guard', options.tmp ?? '', command, ...args], {
    cwd: options.cwd,
    env: { ...options.env, [treeVariable]: tree },
    stdio: options.ipc ? [...stdio, 'ipc'] : stdio,
    detached: options.group ?? false,
  })
  const watcher = child.stdio[3] as Writable
  watcher.on('error', () => {}) // a watcher killed with its group has no more use for our words
  child.once('exit', () => watcher.write('exited\n'))
  return { child, exit: exitOf(child), tree, release: () => watcher.end('released\n') }
}

/** The watcher bears the mark of the tree it watches, but is no part of it. */
export function isWatcher(pid: number): boolean {
  return commandOf(pid).includes(' as-one-guard ')
}

/** Not the child's 'close' event: that one waits for the watcher too. */
async function exitOf(child: ChildProcess): Promise<Exit> {
  const silent = Promise.all([child.stdout, child.stderr].map((stream) => stream && once(stream, 'close')))
  const [code, signal] = await once(child, 'exit')
  // An orphan may hold the pipes for as long as it lives; what it says later does not belong to this exit.
  await Promise.race([
    silent,
    sleep(100)
      .then(() => nextTurn())
      .then(() => nextTurn()),
  ]) // after what lies there unread
  return { code, signal }
}
