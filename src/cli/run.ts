import { type Command, Option } from 'commander'
import { resolveSource } from './app-source.ts'
import { runGroup } from './group.ts'
import { hostApp } from './host.ts'
import { plural, say } from './say.ts'
import { takeNotifier } from './sd-notify.ts'
import { addStartOptions, findSources, type StartOptions } from './start-options.ts'

interface RunOptions extends StartOptions {
  prefix?: true
  json?: true
}

/** `as-one run`: in the foreground, for containers and systemd. The script need not know of us. */
export function addRun(program: Command): void {
  const command = program
    .command('run')
    .description('run a script, or the apps of an ecosystem file, in the foreground')
    .argument(
      '[what]',
      'script, ecosystem file, or name of an app that was started before; default: ecosystem.config.*',
    )
    .argument('[args...]', 'passed to the script; put them after --')
  addStartOptions(command)
    .option('--prefix', 'begin each line of output with [name:index]; default with several apps')
    .addOption(new Option('--json', 'each line of output as a JSON object').conflicts('prefix'))
    .addHelpText(
      'after',
      `
Examples:
  as-one run server.js -i max
  as-one run server.js -i 4 -- --verbose
  as-one run ecosystem.config.cjs --env production
  CMD ["npx", "as-one", "run", "server.js", "-i", "max"]      # Dockerfile

Signals: TERM and INT stop, HUP reloads, TTIN and TTOU add and remove a worker, USR1 reopens log files.
Exit codes: 0 stopped, 1 could not start, 130 and 143 when a second signal cut the stop short.`,
    )
    .action(async (what: string | undefined, args: string[], options: RunOptions) => {
      const notify = takeNotifier()
      const { sources, warnings } = await findSources(what, args, options)
      warnings.forEach(say)
      const [first] = sources
      if (sources.length > 1) {
        const named = await Promise.all(
          sources.map(async (source) => ({ source, name: (await resolveSource(source)).name })),
        )
        await runGroup(named, { output: options.json ? 'json' : 'prefix', allMustStart: true, notify })
      } else if (first) {
        const output = options.json ? 'json' : options.prefix ? 'prefix' : 'raw'
        const app = await hostApp(first, { output, controlRequired: false })
        app.warnings.forEach(say)
        const { pid, workers, redis } = app.handle.status()
        say(`${app.name} runs on ${plural(workers.length, 'worker')} (pid ${pid}), Redis: ${redis}`)
        await notify('--ready', `--status=${app.name} runs on ${plural(workers.length, 'worker')}`)
      }
    })
}
