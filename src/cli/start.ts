import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { messageOf } from '../core/errors.ts'
import { type AppSource, resolveSource } from './app-source.ts'
import { appFiles } from './apps-dir.ts'
import { statusOf } from './control-client.ts'
import { spawnBackground } from './host-process.ts'
import { plural, say } from './say.ts'
import { addStartOptions, findSources, type StartOptions } from './start-options.ts'

/** `as-one start`: in the background, one primary per app, and no daemon over them. */
export function addStart(program: Command): void {
  const command = program
    .command('start')
    .description('run a script, or the apps of an ecosystem file, in the background')
    .argument(
      '[what]',
      'script, ecosystem file, or name of an app that was started before; default: ecosystem.config.*',
    )
    .argument('[args...]', 'passed to the script; put them after --')
  addStartOptions(command)
    .addHelpText(
      'after',
      `
Examples:
  as-one start server.js -i max
  as-one start ecosystem.config.cjs --env production
  as-one start ecosystem.config.cjs --only api,queue
  as-one start worker.js --name mailer -- --verbose
  as-one start api                                     # one that was stopped

Exit codes: 0 when every app serves, 1 when one does not; the others go on.`,
    )
    .action(async (what: string | undefined, args: string[], options: StartOptions) => {
      const { sources, warnings } = await findSources(what, args, options)
      warnings.forEach(say)
      if (!(await startAll(sources))) process.exitCode = 1
    })
}

/** Resolves with whether all of them serve; why one does not is said. */
export async function startAll(sources: readonly AppSource[]): Promise<boolean> {
  const outcomes = await Promise.all(
    sources.map((source) =>
      startOne(source).catch((error: unknown) => {
        say(messageOf(error))
        return false
      }),
    ),
  )
  return outcomes.every(Boolean)
}

async function startOne(source: AppSource): Promise<boolean> {
  const { name } = await resolveSource(source)
  const found = await statusOf(name)
  if (found.state === 'runs') {
    say(`${name} runs already (pid ${found.status.pid}): as-one reload ${name}`)
    return false
  }
  const { report } = await spawnBackground(name, source)
  const outcome = await report
  if (!outcome.ok) {
    const { error, primary } = appFiles(name)
    const last = outcome.message.startsWith('it ended') ? await lastLines(primary) : ''
    say(`${name} did not start: ${outcome.message}${last && `: ${last}`} (more in ${error})`)
    return false
  }
  outcome.warnings.forEach(say)
  process.stdout.write(
    `${outcome.name}: started on ${plural(outcome.workers, 'worker')} (pid ${outcome.pid}), Redis: ${outcome.redis}\n`,
  )
  return true
}

async function lastLines(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim().split('\n').slice(-3).join(' ')
  } catch {
    return ''
  }
}
