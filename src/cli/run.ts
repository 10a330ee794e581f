import { existsSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { startPrimaryOf } from '../cluster/index.ts'
import { SharedStateError } from '../core/errors.ts'

interface RunOptions {
  name?: string
  instances?: string
  port?: string
  redis?: string
  namespace?: string
}

/** `as-one run <script>`: in the foreground, for containers and systemd. The script need not know of us. */
export function addRun(program: Command): void {
  program
    .command('run')
    .description('run a script on several workers, in the foreground')
    .argument('<script>', 'an app that listens, or one that calls runCluster')
    .argument('[args...]', 'passed to the script; put them after --')
    .addOption(new Option('-i, --instances <n>', "how many workers: a number, 'max' or '50%'"))
    .option('-n, --name <name>', 'of the app; default: the name in its package.json')
    .option('-p, --port <port>', 'the environment variable PORT of the workers')
    .option('--redis <url>', "URL, or 'local'; default: REDIS_URL, else a private redis-server")
    .option('--namespace <namespace>', 'first part of every Redis key; default: the name')
    .addHelpText('after', '\nExamples:\n  as-one run server.js\n  as-one run server.js -i max -- --verbose\n')
    .action(async (script: string, args: string[], options: RunOptions) => {
      const exec = resolve(script)
      if (!existsSync(exec) || !statSync(exec).isFile()) {
        throw new SharedStateError('ERR_AS_ONE_OPTIONS', `run: there is no script at ${exec}`)
      }
      const { instances, port, ...rest } = options
      const cluster = await startPrimaryOf({
        exec,
        args,
        options: {
          ...rest,
          ...(instances === undefined
            ? {}
            : { workers: /^\d+$/.test(instances) ? Number(instances) : instances }),
          ...(port === undefined ? {} : { port: Number(port), env: { PORT: port } }),
        },
      })
      const { name, pid, workers, redis } = cluster.status()
      process.stderr.write(
        `as-one: ${name} runs on ${workers.length} workers (pid ${pid}), Redis: ${redis}\n`,
      )
    })
}
