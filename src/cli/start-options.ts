import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { SharedStateError } from '../core/errors.ts'
import { nearest } from '../core/options.ts'
import { type AppSource, logicalCwd, type Overrides, sourcesOf } from './app-source.ts'
import { plainName } from './app-spec.ts'
import { knownApps, readRecord } from './apps-dir.ts'
import { isEcosystemFile, USUAL_NAMES } from './ecosystem.ts'

/** What `run` and `start` have in common. */
export interface StartOptions {
  name?: string
  instances?: string
  env?: string
  only?: string
  cwd?: string
  port?: string
  redis?: string
  namespace?: string
  nodeArgs?: string
  waitReady?: true
  maxMemoryRestart?: string
  killTimeout?: string
}

export function addStartOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '-i, --instances <n>',
        "how many workers: a number, 'max', '50%' or -1 for all CPUs but one; default: one process",
      ),
    )
    .option('-n, --name <name>', "default: the script's file name without its ending")
    .option('--env <name>', 'use env_<name> of the ecosystem file on top of env')
    .option('--only <names>', 'of the apps in the ecosystem file, separated by commas')
    .option('--cwd <dir>', 'where the script runs; default: here, or where the ecosystem file is')
    .option('-p, --port <port>', 'the environment variable PORT of the workers')
    .option('--node-args <args>', "Node's own options, such as '--max-old-space-size=512'")
    .option('--wait-ready', "ready when the script has sent the message 'ready', as PM2 has it")
    .option('--max-memory-restart <size>', "replace a worker above it, such as '300M'")
    .option('--kill-timeout <ms>', 'that a worker has to stop')
    .option(
      '--redis <url>',
      "URL, or 'local'; default: REDIS_URL, else a private redis-server where there is one",
    )
    .option('--namespace <namespace>', 'first part of every Redis key; default: the name in package.json')
}

function overridesOf(options: StartOptions, args: readonly string[]): Overrides {
  const {
    name,
    instances,
    env,
    cwd,
    port,
    redis,
    namespace,
    nodeArgs,
    waitReady,
    maxMemoryRestart,
    killTimeout,
  } = options
  const given = {
    name,
    instances,
    env,
    cwd,
    port,
    redis,
    namespace,
    nodeArgs,
    waitReady,
    maxMemory: maxMemoryRestart,
    killTimeout,
  }
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  return { ...set, ...(args.length > 0 && { args }) }
}

/**
 * What `run` or `start` is about: a script, an ecosystem file (the usual names when nothing is given), or an app that was
 * started before.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` with the nearest name
 */
export async function findSources(
  what: string | undefined,
  args: readonly string[],
  options: StartOptions,
): Promise<{ sources: AppSource[]; warnings: readonly string[] }> {
  const file = what ?? USUAL_NAMES.find((name) => existsSync(name))
  if (file === undefined)
    throw new SharedStateError(
      'ERR_AS_ONE_OPTIONS',
      `name a script or an ecosystem file; there is no ${USUAL_NAMES[0]} here`,
    )
  const only = options.only?.split(',').map((name) => plainName(name.trim()))
  const { cwd, ...overrides } = overridesOf(options, args)
  const at = join(cwd ?? '', file)
  if (existsSync(file))
    return sourcesOf(
      file,
      cwd === undefined ? overrides : { ...overrides, cwd: join(logicalCwd(), cwd) },
      only,
    )
  const known = await knownApps().catch((): string[] => [])
  const names = file === 'all' ? known : known.includes(plainName(file)) ? [plainName(file)] : []
  if (names.length === 0) {
    const meant = nearest(file, known)
    const kind = isEcosystemFile(file) ? 'ecosystem file' : 'script'
    throw new SharedStateError(
      'ERR_AS_ONE_OPTIONS',
      `there is no ${kind} at ${at}, and no app of this name; ${meant ? `did you mean ${meant}?` : 'check the path'}`,
    )
  }
  const records = await Promise.all(names.map((name) => readRecord(name)))
  const sources = records.flatMap((record) => (record ? [record.source] : []))
  return {
    sources: sources.map((source) => ({ ...source, overrides: { ...source.overrides, ...overrides } })),
    warnings: [],
  }
}
