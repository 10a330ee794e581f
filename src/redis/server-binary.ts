import { execFile } from 'node:child_process'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { messageOf, SharedStateError } from '../core/errors.ts'

const NAMES = ['redis-server', 'valkey-server'] as const
const OLDEST = { Redis: [7, 0], Valkey: [7, 2] } as const
const INSTALL_ADVICE =
  'set REDIS_URL to a Redis you already run, or install one with: npx as-one doctor --fix'

/** A Redis or Valkey server program that is new enough for us. */
export interface ServerBinary {
  readonly path: string
  readonly product: keyof typeof OLDEST
  readonly version: string
}

/**
 * The program behind `AS_ONE_REDIS_SERVER`, else the first `redis-server` in PATH that is new enough, else `valkey-server`.
 *
 * @throws SharedStateError `ERR_AS_ONE_LOCAL_REDIS` when there is none, or only one that is too old
 */
export async function findServerBinary(env: NodeJS.ProcessEnv = process.env): Promise<ServerBinary> {
  const chosen = env.AS_ONE_REDIS_SERVER
  if (chosen) {
    const path = chosen.includes('/') ? resolve(chosen) : findInPath(chosen, env)
    if (path && isExecutable(path)) return inspect(path)
    throw localRedisError(`AS_ONE_REDIS_SERVER is ${JSON.stringify(chosen)}, which is no executable file`)
  }
  let refusal: unknown
  for (const name of NAMES) {
    const path = findInPath(name, env)
    if (!path) continue
    try {
      return await inspect(path)
    } catch (error) {
      refusal ??= error
    }
  }
  throw refusal ?? localRedisError(`found neither redis-server nor valkey-server in PATH: ${INSTALL_ADVICE}`)
}

/** The executable of this name in PATH. */
export function findInPath(name: string, env: NodeJS.ProcessEnv): string | undefined {
  // An empty entry means the working directory, and nobody wants a server program from there.
  const directories = (env.PATH ?? '').split(delimiter).filter((directory) => directory !== '')
  return directories.map((directory) => join(directory, name)).find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

async function inspect(path: string): Promise<ServerBinary> {
  let output: string
  try {
    output = (await promisify(execFile)(path, ['--version'], { timeout: 10_000 })).stdout
  } catch (error) {
    throw localRedisError(`${path} --version failed: ${messageOf(error).trim()}`, error)
  }
  // Valkey 7.2 prints a bare "Server v=7.2.5", before and after that each product names itself.
  const match = /^(?:(Redis|Valkey) )?server v=((\d+)\.(\d+)\S*)/im.exec(output)
  if (!match)
    throw localRedisError(
      `${path} is neither Redis nor Valkey: --version says ${JSON.stringify(output.slice(0, 80))}`,
    )
  const product = match[1]?.toLowerCase() === 'redis' ? 'Redis' : 'Valkey'
  const [oldestMajor, oldestMinor] = OLDEST[product]
  const [version, major, minor] = [match[2] as string, Number(match[3]), Number(match[4])]
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor))
    return { path, product, version }
  throw localRedisError(
    `${path} is ${product} ${version}, as-one needs ${product} >= ${oldestMajor}.${oldestMinor}: upgrade it, or set REDIS_URL`,
  )
}

/** The one error of the managed Redis: whatever is wrong, REDIS_URL is the way around it. */
export function localRedisError(message: string, cause?: unknown): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_LOCAL_REDIS', message, cause === undefined ? undefined : { cause })
}
