import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import { nearest } from '../core/options.ts'
import { preparePrivate, stateHomeOf } from '../redis/local-redis-dir.ts'
import { isMissing } from '../redis/local-redis-lock.ts'
import type { AppSource } from './app-source.ts'
import type { LogPlan } from './log-plan.ts'

/** The kernel cuts longer ones at 108 bytes (macOS: 104), without a word. */
const MAX_SOCKET_PATH_BYTES = 100

/** Where everything of one app lies. */
export interface AppFiles {
  readonly dir: string
  readonly socket: string
  /** How it was started, for the next start. */
  readonly record: string
  readonly lock: string
  readonly out: string
  readonly error: string
  /** What its primary says in the background. */
  readonly primary: string
}

/** What is known of an app that need not run. Never holds an environment. */
export interface AppRecord {
  readonly version: 1
  readonly source: AppSource
  readonly logs: LogPlan
}

export function asOneHome(env: NodeJS.ProcessEnv = process.env): string {
  return join(stateHomeOf(env), 'as-one')
}

/** Computes the paths, touches nothing. @throws SharedStateError when there is no home, or its path is too long */
export function appFiles(name: string, env: NodeJS.ProcessEnv = process.env): AppFiles {
  const dir = join(asOneHome(env), 'apps', name)
  const inDir = (file: string): string => join(dir, file)
  const socket = inDir('control')
  const bytes = Buffer.byteLength(socket)
  if (bytes > MAX_SOCKET_PATH_BYTES) {
    throw new SharedStateError(
      'ERR_AS_ONE_CONTROL',
      `the control socket's path ${socket} is ${bytes} bytes long, a unix socket takes ${MAX_SOCKET_PATH_BYTES}: choose a shorter --name, or set XDG_STATE_HOME to a shorter directory`,
    )
  }
  return {
    dir,
    socket,
    record: inDir('app.json'),
    lock: inDir('lock'),
    out: inDir('out.log'),
    error: inDir('error.log'),
    primary: inDir('primary.log'),
  }
}

/** Makes the directory, or checks the one that is there: who could write to it could give orders to the app. */
export async function prepareAppDir({ dir }: AppFiles, env: NodeJS.ProcessEnv = process.env): Promise<void> {
  await preparePrivate([asOneHome(env), join(asOneHome(env), 'apps'), dir])
}

/** Of every app that was ever started here and not deleted, by name. */
export async function knownApps(): Promise<string[]> {
  try {
    const entries = await readdir(join(asOneHome(), 'apps'), { withFileTypes: true })
    const names = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
    const known = await Promise.all(names.map(async (name) => ((await readRecord(name)) ? name : undefined)))
    return known.filter((name) => name !== undefined).sort()
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

export async function readRecord(name: string): Promise<AppRecord | undefined> {
  const { record } = appFiles(name)
  try {
    const read = parseSafely(await readFile(record, 'utf8')) as AppRecord
    if (read?.version === 1 && typeof read.source?.file === 'string') return read
    throw new Error('it is of another version of as-one')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw new SharedStateError(
      'ERR_AS_ONE_CONTROL',
      `cannot read ${record}, how ${name} was started: ${(error as Error).message}; remove it and start the app again`,
    )
  }
}

export async function writeRecord(name: string, record: AppRecord): Promise<void> {
  await writePrivately(appFiles(name).record, record)
}

export async function forgetApp(name: string): Promise<void> {
  const { record, socket } = appFiles(name)
  await rm(record, { force: true })
  await rm(socket, { force: true })
}

/** Whole or not at all, and for nobody else's eyes. */
export async function writePrivately(path: string, content: unknown): Promise<void> {
  const part = `${path}.${process.pid}`
  try {
    await writeFile(part, `${JSON.stringify(content, undefined, 2)}\n`, { mode: 0o600 })
    await rename(part, path)
  } catch (error) {
    await rm(part, { force: true })
    throw error
  }
}

export function unknownApp(name: string, known: readonly string[]): SharedStateError {
  const meant = nearest(name, known)
  const advice = meant
    ? `did you mean ${meant}?`
    : known.length > 0
      ? `known: ${known.join(', ')}`
      : 'none has been started'
  return new SharedStateError('ERR_AS_ONE_OPTIONS', `there is no app '${name}'; ${advice}`)
}
