import { realpathSync } from 'node:fs'
import { basename, extname, resolve } from 'node:path'
import { SharedStateError } from '../core/errors.ts'
import { nearest } from '../core/options.ts'
import { type AppSpec, nameOf, specOf } from './app-spec.ts'
import { isEcosystemFile, readEcosystem } from './ecosystem.ts'

/** Where an app's settings come from. Kept between starts, so it names variables' sets, never their values. */
export interface AppSource {
  /** A script or an ecosystem file; absolute, and not followed where it leads through symbolic links. */
  readonly file: string
  /** Which app of the ecosystem file. */
  readonly app?: string | undefined
  readonly overrides: Overrides
}

/** What the command line says beside the file. */
export interface Overrides {
  readonly cwd?: string | undefined
  readonly name?: string | undefined
  readonly instances?: string | undefined
  /** The `env_<name>` to use. */
  readonly env?: string | undefined
  readonly port?: string | undefined
  readonly redis?: string | undefined
  readonly namespace?: string | undefined
  readonly args?: readonly string[] | undefined
  readonly nodeArgs?: string | undefined
  readonly waitReady?: true | undefined
  readonly maxMemory?: string | undefined
  readonly killTimeout?: string | undefined
}

/** One per app of a file, or the one of a script. @throws SharedStateError `ERR_AS_ONE_ECOSYSTEM` */
export async function sourcesOf(
  path: string,
  overrides: Overrides,
  only?: readonly string[],
): Promise<{ sources: AppSource[]; warnings: readonly string[] }> {
  const file = resolve(logicalCwd(), path)
  if (!isEcosystemFile(file))
    return { sources: [{ file, overrides: { cwd: logicalCwd(), ...overrides } }], warnings: [] }
  const { apps, warnings } = await readEcosystem(file)
  const names = apps.map((entry, index) => nameOf(entry, `${file}: apps[${index}]`))
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice) throw new SharedStateError('ERR_AS_ONE_ECOSYSTEM', `${file}: two apps have the name '${twice}'`)
  for (const name of only ?? []) {
    if (names.includes(name)) continue
    const meant = nearest(name, names)
    throw new SharedStateError(
      'ERR_AS_ONE_ECOSYSTEM',
      `${file} has no app '${name}'; ${meant ? `did you mean ${meant}?` : `it has ${names.join(', ')}`}`,
    )
  }
  const { name, ...shared } = overrides
  if (name !== undefined && names.length > 1)
    throw new SharedStateError(
      'ERR_AS_ONE_OPTIONS',
      `--name is for one app, ${file} has ${names.length}: ${names.join(', ')}; choose with --only`,
    )
  const sources = names
    .filter((each) => !only || only.includes(each))
    .map((app) => ({ file, app, overrides: name === undefined ? shared : { ...shared, name } }))
  return { sources, warnings }
}

/** Reads the file behind a source anew. @throws SharedStateError `ERR_AS_ONE_ECOSYSTEM` with all mistakes of the app's entry */
export async function resolveSource({ file, app, overrides }: AppSource): Promise<AppSpec> {
  if (!isEcosystemFile(file)) {
    const entry = { script: file, name: basename(file, extname(file)) }
    return specOf(entry, overrides, { at: file, dir: overrides.cwd ?? logicalCwd() })
  }
  const { apps } = await readEcosystem(file)
  const index = apps.findIndex((entry, each) => nameOf(entry, `${file}: apps[${each}]`) === app)
  if (index < 0) throw new SharedStateError('ERR_AS_ONE_ECOSYSTEM', `${file} has no app '${app}' any more`)
  const dir = resolve(file, '..')
  return specOf(apps[index] as Record<string, unknown>, overrides, { at: `${file}: app '${app}'`, dir })
}

/** The working directory as the shell has it: through `releases/current` rather than where that leads today. */
export function logicalCwd(): string {
  const { PWD } = process.env
  try {
    if (PWD && realpathSync(PWD) === process.cwd()) return PWD
  } catch {
    // inherited from a shell elsewhere, or gone
  }
  return process.cwd()
}
