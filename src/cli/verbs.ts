import type { Command } from 'commander'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { forgetApp, readRecord, unknownApp } from './apps-dir.ts'
import { ask, statusOf } from './control-client.ts'
import { plural, say } from './say.ts'
import { startAll } from './start.ts'
import { type Target, targetsOf } from './targets.ts'

const APPS = 'names, all, or an ecosystem file'
const EXIT_CODES = '\n\nExit codes: 0 when it worked for every app, 1 when not; the reason is on stderr.'

/** What is done to apps that run: reload, restart, scale, stop, delete. */
export function addVerbs(program: Command): void {
  program
    .command('reload')
    .description('replace every worker without a failed request; the old ones stay when the new do not start')
    .argument('<apps...>', APPS)
    .option('--env <name>', 'change to env_<name> of the ecosystem file')
    .addHelpText(
      'after',
      `\nExamples:\n  as-one reload api\n  as-one reload all\n  as-one reload ecosystem.config.cjs --env production   # also starts those that do not run\n\nConfiguration, environment files, script and symbolic links are read anew.${EXIT_CODES}`,
    )
    .action((apps: string[], { env }: { env?: string }) => replace('reload', apps, env))
  program
    .command('restart')
    .description('stop every worker, then start them; starts an app that does not run')
    .argument('<apps...>', APPS)
    .option('--env <name>', 'change to env_<name> of the ecosystem file')
    .addHelpText(
      'after',
      `\nExamples:\n  as-one restart api\n  as-one restart ecosystem.config.cjs --env production${EXIT_CODES}`,
    )
    .action((apps: string[], { env }: { env?: string }) => replace('restart', apps, env))
  program
    .command('scale')
    .description('change the number of workers')
    .argument('<app>')
    .argument('<n>', 'a number, +N or -N; the highest indexes go first')
    .addHelpText(
      'after',
      `\nExamples:\n  as-one scale api 8\n  as-one scale api +2\n  as-one scale api -1${EXIT_CODES}`,
    )
    .allowUnknownOption() // -1 is a number here
    .action(async (app: string, n: string) => {
      if (!/^[+-]?\d{1,4}$/.test(n))
        throw new SharedStateError(
          'ERR_AS_ONE_OPTIONS',
          `scale ${app}: a number, +N or -N is needed, got '${n}'`,
        )
      await forEach([app], undefined, async ({ name }) => {
        const desired = await ask(name, { command: 'scale', to: n }).catch(explainAbsence(name))
        process.stdout.write(`${name}: ${plural(Number(desired), 'worker')}\n`)
      })
    })
  program
    .command('stop')
    .description('drain and stop apps; list still shows them, start starts them again')
    .argument('<apps...>', APPS)
    .addHelpText('after', `\nExamples:\n  as-one stop api\n  as-one stop all${EXIT_CODES}`)
    .action((apps: string[]) =>
      forEach(apps, undefined, async ({ name }) => {
        process.stdout.write((await stop(name)) ? `${name}: stopped\n` : `${name}: was not running\n`)
      }),
    )
  program
    .command('delete')
    .alias('del')
    .description('stop apps and forget them; their log files stay')
    .argument('<apps...>', APPS)
    .addHelpText('after', `\nExamples:\n  as-one delete api\n  as-one delete all${EXIT_CODES}`)
    .action((apps: string[]) =>
      forEach(apps, undefined, async ({ name }) => {
        await stop(name)
        await forgetApp(name)
        process.stdout.write(`${name}: deleted\n`)
      }),
    )
}

/** Apps one after the other, so that not all of them are at half strength at once. */
async function forEach(
  apps: readonly string[],
  env: string | undefined,
  verb: (target: Target) => Promise<void>,
): Promise<void> {
  for (const target of await targetsOf(apps, env)) {
    try {
      await verb(target)
    } catch (error) {
      say(messageOf(error).startsWith(target.name) ? messageOf(error) : `${target.name}: ${messageOf(error)}`)
      process.exitCode = 1
    }
  }
}

function replace(
  command: 'reload' | 'restart',
  apps: readonly string[],
  env: string | undefined,
): Promise<void> {
  return forEach(apps, env, async ({ name, source }) => {
    const found = await statusOf(name)
    if (found.state === 'silent') throw silent(name)
    if (found.state !== 'runs') {
      const recorded = source ?? (command === 'restart' ? (await readRecord(name))?.source : undefined)
      if (!recorded)
        throw new SharedStateError('ERR_AS_ONE_CONTROL', `${name} does not run: as-one start ${name}`)
      const overrides = env === undefined ? recorded.overrides : { ...recorded.overrides, env }
      if (!(await startAll([{ ...recorded, overrides }]))) process.exitCode = 1
      return
    }
    const count = await ask(name, { command, ...(env !== undefined && { env }) }, (line) => {
      if (line.type === 'progress') process.stdout.write(`${name}: ${line.text}\n`)
    })
    process.stdout.write(`${name}: ${command}ed ${plural(Number(count), 'worker')}\n`)
  })
}

/** Longer than the longest drain that is the default, and a client that has gone stops nothing. */
const GONE_DEADLINE_MS = 5_000

async function stop(name: string): Promise<boolean> {
  const found = await statusOf(name)
  if (found.state === 'silent') throw silent(name)
  if (found.state !== 'runs') return false
  await ask(name, { command: 'stop' })
  const deadline = Date.now() + GONE_DEADLINE_MS
  while (Date.now() < deadline && (await statusOf(name)).state === 'runs')
    await new Promise((resolve) => setTimeout(resolve, 50))
  return true
}

function silent(name: string): SharedStateError {
  return new SharedStateError(
    'ERR_AS_ONE_CONTROL',
    `${name}: its primary does not answer; if it stays so, end that process with kill -9, its workers finish what they have begun`,
  )
}

function explainAbsence(name: string): (error: unknown) => Promise<never> {
  return async (error) => {
    if ((await readRecord(name)) === undefined) throw unknownApp(name, [])
    const { state } = await statusOf(name)
    throw state === 'runs'
      ? error
      : new SharedStateError('ERR_AS_ONE_CONTROL', `${name} does not run: as-one start ${name}`)
  }
}
