import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'

const FALLBACK = 'app'

/**
 * The name of the application that this process runs: that of the package.json nearest to its main script, the same on
 * every machine it is deployed to. `@scope/name` becomes `scope-name`.
 */
export function appName(mainScript: string | undefined = process.argv[1]): string {
  let folder = mainScript === undefined ? process.cwd() : dirname(resolve(mainScript))
  for (;;) {
    const name = nameIn(join(folder, 'package.json'))
    if (name !== undefined) return name
    const parent = dirname(folder)
    if (parent === folder) return FALLBACK
    folder = parent
  }
}

function nameIn(file: string): string | undefined {
  let manifest: unknown
  try {
    manifest = JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined // no package.json here, or one that is not for us to complain about
  }
  const { name } = (manifest ?? {}) as { name?: unknown }
  if (typeof name !== 'string') return undefined
  const plain = name
    .replace(/^@/, '')
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .slice(0, 48)
  return plain === '' ? undefined : plain
}
