import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root: string = fileURLToPath(new URL('../..', import.meta.url))

export interface Snippet {
  /** `src/bus/README.md:51`, the first line of its code. */
  readonly where: string
  readonly language: 'ts' | 'js'
  readonly code: string
}

const FENCE = /^```(ts|js)\n([\s\S]*?)^```$/gm

/** Those that users read, relative to the top: that of the package, of its rooms and of the examples. */
export function readmes(): string[] {
  const folders = ['src', 'examples'].flatMap((top) =>
    readdirSync(join(root, top)).map((name) => `${top}/${name}`),
  )
  return ['.', ...folders]
    .map((folder) => join(folder, 'README.md'))
    .filter((file) => existsSync(join(root, file)))
}

export function snippetsOf(file: string): Snippet[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(FENCE)].map((match) => ({
    where: `${file}:${text.slice(0, match.index).split('\n').length + 1}`,
    language: match[1] as 'ts' | 'js',
    code: match[2] ?? '',
  }))
}

/** A snippet that shows several files begins each with `// name.js`, and perhaps a colon and a word about it. */
export function filesOf({ code }: Snippet): { name: string; code: string }[] {
  return code
    .split(/^(?=\/\/ [\w-]+\.[jt]s\b)/m)
    .map((part) => ({ name: /^\/\/ ([\w-]+\.[jt]s)\b/.exec(part)?.[1] ?? '', code: part }))
}
