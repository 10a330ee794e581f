import { appName } from '../core/app-name.ts'
import { resolveClusterOptions } from './options.ts'
import { type PrimaryHandle, startPrimary } from './primary.ts'

/**
 * Makes this process the primary of a script that is not its own, for the command line. An unmodified script is ready
 * when it listens, one that calls `runCluster` when that says so.
 *
 * @throws SharedStateError as `runCluster`
 */
export async function startPrimaryOf(
  script: { readonly exec: string; readonly args: readonly string[] },
  options: Readonly<Record<string, unknown>>,
): Promise<PrimaryHandle> {
  const named = options.name === undefined ? { ...options, name: appName(script.exec) } : options
  const resolved = resolveClusterOptions(named, process.env)
  const workers = resolved.workers === 'inline' ? 1 : resolved.workers
  return startPrimary({ ...resolved, workers }, { ...script, readyWhenListening: true })
}
