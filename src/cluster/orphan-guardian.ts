import { channels } from '../core/channels.ts'
import { type Guardian, START_TIME_OF, startGuardian } from '../core/guardian.ts'

/** Longer than what an orphaned worker allows itself, so that it ends only those that do not end themselves. */
export const ORPHANS_KILLED_AFTER_MS = 25_000

/** Lines: `+ pid` for a worker that has been started, `- pid` for one that has ended. */
const SCRIPT = `
set -f
trap '' HUP INT TERM
tenths=$1 workers=
${START_TIME_OF}
isAlive() {
  startTimeOf "\${1%%-*}" && [ "$started" = "\${1#*-}" ]
}
keepLiving() {
  living=
  for worker in $workers; do
    if isAlive "$worker"; then living="$living $worker"; fi
  done
  workers=$living
}
while read -r sign pid; do
  case $sign in
    +) if startTimeOf "$pid"; then workers="$workers $pid-$started"; fi ;;
    -)
      others=
      for worker in $workers; do
        if [ "\${worker%%-*}" != "$pid" ]; then others="$others $worker"; fi
      done
      workers=$others
      ;;
  esac
done
keepLiving
while [ -n "$workers" ] && [ "$tenths" -gt 0 ]; do
  sleep 0.5
  tenths=$((tenths - 5))
  keepLiving
done
for worker in $workers; do kill -KILL "\${worker%%-*}"; done
`

export interface OrphanGuardian {
  /** Tells it of a worker that has just been started; returns the function that tells of its end. */
  watch(pid: number): () => void
  close(): Promise<void>
}

/**
 * Sees to it that no worker outlives a primary that was killed: one in an endless loop, or stopped, cannot notice that
 * itself. Without a sh (a container that has none) there is nobody to do it, which the diagnostics channel tells; in a
 * container the kernel ends all with process 1.
 */
export async function guardOrphans(
  env: NodeJS.ProcessEnv,
  afterMs: number = ORPHANS_KILLED_AFTER_MS,
): Promise<OrphanGuardian> {
  const pids = new Set<number>()
  let guardian: Guardian | undefined
  try {
    guardian = await startGuardian({
      name: 'as-one-guardian',
      script: SCRIPT,
      args: [String(afterMs / 100)],
      env,
      briefing: () => [...pids].map((pid) => `+ ${pid}`),
    })
  } catch (error) {
    if (channels.cluster.hasSubscribers) channels.cluster.publish({ event: 'no-orphan-guardian', error })
  }
  return {
    watch(pid) {
      pids.add(pid)
      guardian?.tell(`+ ${pid}`)
      return () => {
        pids.delete(pid)
        guardian?.tell(`- ${pid}`)
      }
    },
    close: async () => guardian?.close(),
  }
}
