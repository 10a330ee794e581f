import { appName } from '../core/app-name.ts'
import { type ResolvedClusterOptions, resolveClusterOptions } from './options.ts'
import { type PrimaryHandle, startPrimary } from './primary.ts'
import type { OnOutput } from './worker-handle.ts'

/** How a script that is not this process's own is run; made anew for each reload. */
export interface Launch {
  /** May lead through symbolic links: they are followed at each start of a worker. */
  readonly exec: string
  readonly args: readonly string[]
  /** The same goes for this one. Default: that of this process. */
  readonly cwd?: string
  /** Node's own options. */
  readonly nodeArgs?: readonly string[]
  /** Added to the environment of one worker. Default: `NODE_APP_INSTANCE`. */
  envOf?(index: number): Readonly<Record<string, string>>
  /** Ready when it has sent 'ready', instead of when it listens. */
  readonly waitReady?: boolean
  /** The app gets PM2's 'shutdown' message instead of having its signal handlers run, each after the drain. */
  readonly shutdownWithMessage?: boolean
  /** As long as no worker of this script has ever listened, one that has run this long without listening is ready. Default: never. */
  readonly settleMs?: number
  /** Of `runCluster`. `name`, `namespace`, `redis` and `balance` are those of the start for ever. */
  readonly options: Readonly<Record<string, unknown>>
}

export interface LaunchHooks {
  /** Called before each reload. What it throws is why the reload failed. */
  relaunch?(): Promise<Launch>
  /** Gets what the workers write. Default: stdout is inherited, stderr passed on. */
  readonly onOutput?: OnOutput
  /** Has a handle as soon as a stop, a look at the status or a scale makes sense, which is before the workers serve. */
  onStarting?(handle: PrimaryHandle): void
}

/**
 * Makes this process the primary of a script that is not its own, for the command line. An unmodified script is ready
 * when it listens, one that calls `runCluster` when that says so. Where no Redis has been named it gets the managed
 * local one; if that cannot be had the script runs without, after a line that says so.
 *
 * @throws SharedStateError as `runCluster`
 */
export function startPrimaryOf(launch: Launch, hooks: LaunchHooks = {}): Promise<PrimaryHandle> {
  const { relaunch, ...rest } = hooks
  return startPrimary(optionsOf(launch), launch, {
    ...rest,
    ...(relaunch && {
      async relaunch() {
        const next = await relaunch()
        return { options: optionsOf(next), launch: next }
      },
    }),
  })
}

function optionsOf({ exec, options }: Launch): ResolvedClusterOptions & { workers: number } {
  const named = options.name === undefined ? { ...options, name: appName(exec) } : options
  const resolved = resolveClusterOptions(named, process.env)
  return { ...resolved, workers: resolved.workers === 'inline' ? 1 : resolved.workers }
}
