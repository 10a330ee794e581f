import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import type { LocalRedisFiles } from './local-redis-dir.ts'

/** How long a server gets for its last fsync; the guardian below counts the same in tenths of a second. */
export const STOP_DEADLINE_MS = 10_000

/**
 * Waits for the end of its standard input, which is our end. What is no `sleep`, `ln`, `readlink` or `rm` here is built
 * into every sh, so waiting for years costs one small process and nothing else.
 */
const GUARDIAN = `
set -f
dir=$1 user=$2 grace=$3
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
isAlive() {
  withoutNonce=\${1%-*}
  startTimeOf "\${1%%-*}" && [ "$started" = "\${withoutNonce#*-}" ]
}
ownerOf() {
  owner=$(readlink "$1")
}
takeLock() {
  until ln -s "$me" "$1"; do
    if ! ownerOf "$1"; then
      [ -d "$dir" ] || exit 1
      sleep 0.1
    elif isAlive "$owner"; then
      sleep 0.1
    else
      evict "$1" "$owner"
    fi
  done
}
evict() {
  takeLock "$1.$2"
  if ownerOf "$1" && [ "$owner" = "$2" ]; then rm -f "$1"; fi
  rm -f "$1.$2"
}
isServer() {
  if [ -r /proc/self/stat ]; then
    command=
    { read -r command <"/proc/$1/cmdline"; } 2>/dev/null
  else
    command=$(ps -ww -o command= -p "$1")
  fi
  case $command in *"$dir/redis.conf"*) ;; *) return 1 ;; esac
}

while read -r word; do :; done
[ -e "$dir/users/$user" ] || exit 0
sleep "$grace"
[ -e "$dir/users/$user" ] || exit 0

startTimeOf $$
me=$$-$started-guardian
takeLock "$dir/lock"
trap 'rm -f "$dir/lock"' EXIT
rm -f "$dir/users/$user"
set +f
for other in "$dir"/users/*; do
  [ -e "$other" ] && isAlive "\${other##*/}" && exit 0
done
{ read -r pid <"$dir/redis.pid"; } 2>/dev/null || exit 0
isServer "$pid" && startTimeOf "$pid" || exit 0
server=$started
kill -TERM "$pid"
tenths=0
while startTimeOf "$pid" && [ "$started" = "$server" ]; do
  sleep 0.1
  tenths=$((tenths + 1))
  [ $tenths -ne ${STOP_DEADLINE_MS / 100} ] || kill -KILL "$pid"
done
`

const REPLACE_AFTER_MS = 1_000
const CLOSE_DEADLINE_MS = 2_000

export interface Guardian {
  /** To be called when the user is no longer registered: the guardian then has nothing to do and ends. */
  close(): Promise<void>
}

/**
 * Starts the process that outlives this one for `graceMs`. A guardian that is killed is replaced: without one, our
 * own SIGKILL would leave the server behind.
 */
export async function startGuardian(
  files: LocalRedisFiles,
  user: string,
  graceMs: number,
  env: NodeJS.ProcessEnv,
): Promise<Guardian> {
  let closed = false
  let replacing: NodeJS.Timeout | undefined
  const start = (): ChildProcess => {
    const child = spawnGuardian([files.dir, user, String(graceMs / 1000)], env)
    const replace = (): void => {
      if (closed) return
      replacing = setTimeout(() => {
        current = start()
      }, REPLACE_AFTER_MS).unref()
    }
    return child.once('error', replace).once('exit', replace)
  }
  let current = start()
  if (current.pid === undefined) {
    closed = true
    await once(current, 'spawn') // rejects with the reason
  }
  return {
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

function spawnGuardian(args: string[], env: NodeJS.ProcessEnv): ChildProcess {
  // Its own session keeps Ctrl-C away from it. Node opens the pipe close-on-exec: a worker that inherited our end
  // would keep the guardian waiting for as long as it lives.
  const child = spawn('/bin/sh', ['-c', GUARDIAN, 'as-one-guardian', ...args], {
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
