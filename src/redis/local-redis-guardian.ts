import { type Guardian, START_TIME_OF, startGuardian } from '../core/guardian.ts'
import type { LocalRedisFiles } from './local-redis-dir.ts'

/** How long a server gets for its last fsync; the guardian below counts the same in tenths of a second. */
export const STOP_DEADLINE_MS = 10_000

/** Waits for the end of its standard input, which is our end. */
const GUARDIAN = `
set -f
dir=$1 user=$2 grace=$3
${START_TIME_OF}
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

/** Starts the process that outlives this one for `graceMs`. To be closed when the user is no longer registered. */
export function startRedisGuardian(
  files: LocalRedisFiles,
  user: string,
  graceMs: number,
  env: NodeJS.ProcessEnv,
): Promise<Guardian> {
  const args = [files.dir, user, String(graceMs / 1000)]
  return startGuardian({ name: 'as-one-guardian', script: GUARDIAN, args, env })
}
