import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { basename, extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseDocument } from 'yaml'
import { builtFile } from '../core/built-file.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'

/** As a file has it, not checked yet. */
export interface Ecosystem {
  readonly apps: readonly Readonly<Record<string, unknown>>[]
  /** About the file as a whole. */
  readonly warnings: readonly string[]
}

/** Where `as-one start` and `run` without an argument look. */
export const USUAL_NAMES: readonly string[] = [
  'cjs',
  'js',
  'mjs',
  'json',
  'yaml',
  'yml',
  'ts',
  'mts',
  'cts',
].map((ending) => `ecosystem.config.${ending}`)

const MAX_BYTES = 1 << 20
const DEADLINE_MS = 20_000
const CHILD = fileURLToPath(builtFile('cli/ecosystem-child.js'))

/** By its name, as PM2 does: `*.config.js` (cjs, mjs, ts), `*.json`, `*.yaml`. Anything else is a script. */
export function isEcosystemFile(path: string): boolean {
  return /\.config\.[cm]?[jt]s$|\.(json|ya?ml)$/.test(path)
}

/** @throws SharedStateError `ERR_AS_ONE_ECOSYSTEM` that names the file and, where there is one, the line */
export async function readEcosystem(file: string): Promise<Ecosystem> {
  const value = /\.ya?ml$/.test(file) ? await readYaml(file) : await readByNode(file)
  const root = Array.isArray(value) ? { apps: value } : value
  if (typeof root !== 'object' || root === null) throw wrong(file, 'exports no object with apps: []')
  const sections = root as Record<string, unknown>
  const apps =
    'apps' in sections
      ? sections.apps
      : 'pm2' in sections
        ? sections.pm2
        : 'script' in sections
          ? root
          : undefined
  if (apps === undefined) throw wrong(file, 'has no apps: []')
  const list = Array.isArray(apps) ? apps : [apps]
  if (list.length === 0) throw wrong(file, 'has no app in apps: []')
  for (const [index, app] of list.entries())
    if (typeof app !== 'object' || app === null || Array.isArray(app))
      throw wrong(file, `apps[${index}] is no object`)
  return { apps: list as Record<string, unknown>[], warnings: warningsOf(file, sections) }
}

function warningsOf(file: string, sections: Readonly<Record<string, unknown>>): string[] {
  if (!('deploy' in sections)) return []
  return [
    `${basename(file)}: deploy is not for as-one, which never goes to other machines: keep it for pm2 deploy, or use your CI`,
  ]
}

async function readYaml(file: string): Promise<unknown> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    throw wrong(file, `cannot be read: ${messageOf(error)}`)
  }
  const document = parseDocument(text, { prettyErrors: true })
  const [error] = document.errors
  if (error) {
    const line = error.linePos?.[0].line
    throw wrong(
      line ? `${file}:${line}` : file,
      (error.message.split('\n')[0] ?? '').replace(/ at line .*/, ''),
    )
  }
  // The way through JSON takes aliases and prototypes out of it, as the other formats do.
  return parseSafely(JSON.stringify(document.toJS({ maxAliasCount: 100 }) ?? null))
}

function readByNode(file: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [CHILD, file], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      timeout: DEADLINE_MS,
      killSignal: 'SIGKILL',
    })
    let json = ''
    let stderr = ''
    const [, , errors, answers] = child.stdio as unknown as NodeJS.ReadableStream[]
    errors?.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(0, 16_384)
    })
    answers?.setEncoding('utf8').on('data', (text: string) => {
      json += text
      if (json.length > MAX_BYTES) child.kill('SIGKILL')
    })
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === 0 && json !== '') resolve(parseSafely(json))
      else if (json.length > MAX_BYTES) reject(wrong(file, `exports more than ${MAX_BYTES} bytes`))
      else if (signal) reject(wrong(file, `did not finish loading within ${DEADLINE_MS / 1_000} s`))
      else reject(explain(file, stderr))
    })
  })
}

/** Node's report of an uncaught error: `path:line`, the line, a mark, and the error. */
function explain(file: string, stderr: string): SharedStateError {
  const what = /^(?:[A-Za-z]*(?:Error|Exception)(?: \[[A-Z_]+\])?|Uncaught): ?.*/m.exec(stderr)?.[0]
  if (what?.includes('ERR_UNKNOWN_FILE_EXTENSION'))
    return wrong(
      file,
      `Node.js ${process.versions.node} cannot read ${extname(file)}: use 22.18 or newer, or an .mjs file`,
    )
  const escaped = file.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const line = new RegExp(`${escaped}:(\\d+)`).exec(stderr)?.[1]
  return wrong(
    line ? `${file}:${line}` : file,
    what ?? (stderr.trim().split('\n')[0] || 'ended without exporting anything'),
  )
}

function wrong(where: string, what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_ECOSYSTEM', `${where}: ${what}`)
}
