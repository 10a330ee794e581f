#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import { builtFile } from '../core/built-file.ts'
import { messageOf } from '../core/errors.ts'
import { addDoctor } from './doctor.ts'
import { addHost } from './host-process.ts'
import { addList } from './list.ts'
import { addLogs } from './logs.ts'
import { addMonit } from './monit.ts'
import { addRun } from './run.ts'
import { addSaved } from './saved.ts'
import { addStart } from './start.ts'
import { addStartup } from './startup.ts'
import { addVerbs } from './verbs.ts'

// Every command lives in a file of its own and adds itself here.
const commands: readonly ((program: Command) => void)[] = [
  addRun,
  addStart,
  addList,
  addLogs,
  addMonit,
  addVerbs,
  addSaved,
  addStartup,
  addDoctor,
  addHost,
]

const manifest = JSON.parse(readFileSync(builtFile('../package.json'), 'utf8')) as {
  version: string
}

function fail(message: string): void {
  const line = message
    .replace(/^error: /, '')
    .trim()
    .replace(/\s*\n\s*/g, ' ')
    .replace(/^unknown command '[^']*'$/, '$&; as-one --help lists them')
  process.stderr.write(`as-one: ${line}\n`)
}

const program = new Command('as-one')
  .description('Run many workers. Behave as one.')
  .version(manifest.version)
  .configureOutput({ outputError: fail })
  .showSuggestionAfterError()
for (const add of commands) add(program)

try {
  await program.parseAsync()
} catch (error) {
  fail(messageOf(error))
  process.exitCode = 1
}
