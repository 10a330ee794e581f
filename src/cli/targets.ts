import { existsSync } from 'node:fs'
import { SharedStateError } from '../core/errors.ts'
import { type AppSource, resolveSource, sourcesOf } from './app-source.ts'
import { plainName } from './app-spec.ts'
import { knownApps, unknownApp } from './apps-dir.ts'
import { isEcosystemFile } from './ecosystem.ts'

export interface Target {
  readonly name: string
  /** When it was named by its ecosystem file, from which it can be started. */
  readonly source?: AppSource
}

/**
 * The apps that names, `all` or an ecosystem file stand for.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` with the nearest name
 */
export async function targetsOf(given: readonly string[], env?: string): Promise<Target[]> {
  const known = await knownApps()
  const targets: Target[] = []
  for (const each of given) {
    if (each === 'all') targets.push(...known.map((name) => ({ name })))
    else if (known.includes(plainName(each))) targets.push({ name: plainName(each) })
    else if (isEcosystemFile(each) && existsSync(each)) {
      const { sources } = await sourcesOf(each, env === undefined ? {} : { env })
      for (const source of sources) targets.push({ name: (await resolveSource(source)).name, source })
    } else throw unknownApp(each, known)
  }
  if (targets.length === 0)
    throw new SharedStateError('ERR_AS_ONE_OPTIONS', 'there are no apps: none has been started')
  return [...new Map(targets.map((target) => [target.name, target])).values()]
}
