/**
 * Runs an ecosystem file in a process of its own and writes what it exports to fd 3: each look at the file is a fresh
 * one, whatever it imports, and nothing it does can harm the primary. What it throws is left to Node, whose report
 * begins with file and line.
 */
import { readFileSync, writeSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { runInThisContext } from 'node:vm'

const file = process.argv[2] as string

async function exported(): Promise<unknown> {
  // PM2 reads its JSON files as an object literal too: with comments and trailing commas.
  if (file.endsWith('.json')) return runInThisContext(`(${readFileSync(file, 'utf8')}\n)`, { filename: file })
  const module = (await import(pathToFileURL(file).href)) as { default?: unknown }
  const value = 'default' in module ? module.default : module
  return typeof value === 'function' ? (value as () => unknown)() : value
}

writeSync(3, JSON.stringify((await exported()) ?? null))
process.exit(0) // a timer or a connection of the file must not keep us waiting
