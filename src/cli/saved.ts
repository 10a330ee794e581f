import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import { preparePrivate } from '../redis/local-redis-dir.ts'
import { isMissing } from '../redis/local-redis-lock.ts'
import { type AppSource, resolveSource } from './app-source.ts'
import { asOneHome, knownApps, readRecord, writePrivately } from './apps-dir.ts'
import { statusOf } from './control-client.ts'
import { type Member, runGroup } from './group.ts'
import { plural, say } from './say.ts'
import { takeNotifier } from './sd-notify.ts'
import { startAll } from './start.ts'

interface Saved {
  readonly version: 1
  readonly apps: readonly { readonly name: string; readonly source: AppSource }[]
}

const savedFile = (): string => join(asOneHome(), 'saved.json')

/** `save` and `resurrect`: which files the apps came from and what the command line added, never an environment. */
export function addSaved(program: Command): void {
  program
    .command('save')
    .description('note which apps run, with their numbers of workers, for resurrect')
    .addHelpText(
      'after',
      `
Noted are paths, names and what the command line said, in a file for your eyes only; no variable of the environment.
What an app needs of the environment belongs into its ecosystem file, or into the file that startup names.

Example:
  as-one start ecosystem.config.cjs --env production && as-one startup && as-one save`,
    )
    .action(async () => {
      const apps: Saved['apps'][number][] = []
      for (const name of await knownApps()) {
        const [found, record] = [await statusOf(name), await readRecord(name)]
        if (found.state !== 'runs' || !record) continue
        const { source } = record
        const scaled = (await resolveSource(source)).workers !== found.status.desired
        const overrides = scaled
          ? { ...source.overrides, instances: String(found.status.desired) }
          : source.overrides
        apps.push({ name, source: { ...source, overrides } })
      }
      if (apps.length === 0)
        throw new SharedStateError(
          'ERR_AS_ONE_OPTIONS',
          `no app runs, so there is nothing to save; to forget what was saved remove ${savedFile()}`,
        )
      await preparePrivate([asOneHome()])
      await writePrivately(savedFile(), { version: 1, apps } satisfies Saved)
      process.stdout.write(
        `saved ${plural(apps.length, 'app')} in ${savedFile()}: ${apps.map(({ name }) => name).join(', ')}\n`,
      )
    })
  program
    .command('resurrect')
    .description('start what was saved and does not run')
    .option('--foreground', 'stay, as the unit of startup does')
    .addHelpText(
      'after',
      '\nExample:\n  as-one resurrect\n\nExit codes: 0 when all of them run, 1 when one does not or nothing was saved.',
    )
    .action(async ({ foreground }: { foreground?: true }) => {
      const notify = takeNotifier()
      const { apps } = await readSaved()
      const missing: Member[] = []
      for (const app of apps) {
        if ((await statusOf(app.name)).state === 'runs') say(`${app.name} runs already`)
        else missing.push(app)
      }
      if (foreground) await runGroup(missing, { output: 'prefix', allMustStart: false, notify })
      else if (!(await startAll(missing.map(({ source }) => source)))) process.exitCode = 1
    })
}

async function readSaved(): Promise<Saved> {
  const file = savedFile()
  try {
    const saved = parseSafely(await readFile(file, 'utf8')) as Saved
    if (saved?.version === 1 && Array.isArray(saved.apps)) return saved
    throw new Error('it is of another version of as-one')
  } catch (error) {
    const what = isMissing(error)
      ? `nothing was saved (${file} is missing): as-one save`
      : `cannot read ${file}: ${messageOf(error)}; as-one save writes it anew`
    throw new SharedStateError('ERR_AS_ONE_CONTROL', what)
  }
}
