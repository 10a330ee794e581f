import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { tempDir } from './helpers/cleanup.ts'
import { runNode } from './helpers/fork.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

/** `src` as it is: path below it, and text. */
type Tree = ReadonlyMap<string, string>

function readTree(): Tree {
  const files = readdirSync(join(root, 'src'), { recursive: true, withFileTypes: true })
  return new Map(
    files
      .filter((file) => file.isFile() && file.name.endsWith('.ts'))
      .map((file) => join(file.parentPath, file.name))
      .map((path) => [path.slice(join(root, 'src/').length), readFileSync(path, 'utf8')]),
  )
}

interface Import {
  /** As written. */
  readonly from: string
  readonly typeOnly: boolean
}

const STATEMENT =
  /^(?:import|export)\s+(type\s+)?(\w+|\*(?:\s+as\s+\w+)?)?\s*,?\s*(?:\{([^}]*)\})?\s*from\s+'([^']+)'/gm

function importsOf(text: string): Import[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '')
  const imports = [...code.matchAll(STATEMENT)].map(([, type, whole, names = '', from = '']): Import => {
    const named = names.split(',').map((name) => name.trim())
    const values = named.filter((name) => name !== '' && !name.startsWith('type '))
    return { from, typeOnly: type !== undefined || (whole === undefined && values.length === 0) }
  })
  const others = [...code.matchAll(/^import\s+'([^']+)'/gm), ...code.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)]
  return [...imports, ...others.map(([, from = '']): Import => ({ from, typeOnly: false }))]
}

const FOUNDATIONS = ['core', 'redis', 'bus', 'context']
/** What each part may import beside itself; every folder that is not named here is a room of state. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  core: [],
  redis: ['core'],
  bus: ['core', 'redis'],
  context: ['core', 'redis', 'bus'],
  cluster: ['core', 'redis', 'bus'],
  cli: ['core', 'redis', 'cluster'],
}
/** These wire rooms together. */
const WIRING = ['shared', 'index']
/** Read file by file; everybody else has an index.ts, and nobody imports past it. */
const WITHOUT_INDEX = ['core', 'redis']

/** `bus/hub.ts` belongs to bus, `context.ts` to context, `default-bus.ts` to itself. */
const partOf = (path: string): string =>
  path.includes('/') ? path.slice(0, path.indexOf('/')) : path.replace(/\.ts$/, '')

function mistakesIn(tree: Tree): string[] {
  const mistakes: string[] = []
  for (const [path, text] of tree) {
    const part = partOf(path)
    for (const { from, typeOnly } of importsOf(text)) {
      if (from.startsWith('.')) {
        const target = join(path, '..', from)
        if (!tree.has(target)) mistakes.push(`${path} imports ${from}, which is not there`)
        else mistakes.push(...mistakesOfStep(path, part, target))
      } else {
        const folder = homeOf(from)
        if (folder && !typeOnly && !folder.some((home) => path.startsWith(home)))
          mistakes.push(`${path} imports ${from}, which belongs to ${folder.join(' and ')}`)
      }
    }
    if (/\bprocess\s*\.\s*send\b/.test(text) && !NODE_CLUSTER.some((home) => path.startsWith(home)))
      mistakes.push(`${path} uses process.send, which belongs to ${NODE_CLUSTER.join(' and ')}`)
  }
  return [...mistakes, ...cyclesIn(tree)]
}

function mistakesOfStep(path: string, part: string, target: string): string[] {
  const targetPart = partOf(target)
  if (part === targetPart) return []
  const mistakes: string[] = []
  const isRoot = !path.includes('/') && part !== 'context'
  const allowed = ALLOWED[part] ?? (isRoot ? undefined : FOUNDATIONS)
  if (allowed && !allowed.includes(targetPart))
    mistakes.push(`${path} imports ${target}: ${part} may import ${['itself', ...allowed].join(', ')}`)
  // The short forms of the foundations (default-bus.ts) know no room; only the wiring does.
  if (isRoot && !WIRING.includes(part) && ![...FOUNDATIONS].includes(targetPart))
    mistakes.push(`${path} imports ${target}: only ${WIRING.join(' and ')} wire rooms`)
  if (target.includes('/') && !WITHOUT_INDEX.includes(targetPart) && target !== `${targetPart}/index.ts`)
    mistakes.push(`${path} imports past ${targetPart}/index.ts: ${target}`)
  return mistakes
}

const NODE_CLUSTER = ['cluster/', 'bus/channel.ts']
const HOMES: Readonly<Record<string, readonly string[]>> = {
  cluster: NODE_CLUSTER,
  'node:cluster': NODE_CLUSTER,
  'express-session': ['session/'],
  'connect-redis': ['session/'],
  'rate-limiter-flexible': ['rate-limit/'],
  'lru-cache': ['cache/'],
  'prom-client': ['metrics/'],
  croner: ['lock/'],
  commander: ['cli/'],
  yaml: ['cli/'],
  ioredis: ['redis/'],
}

/** Where a foreign library lives; undefined for those that anyone may use. */
function homeOf(from: string): readonly string[] | undefined {
  const library = from.startsWith('@') || from.startsWith('node:') ? from : (from.split('/')[0] as string)
  if (library.startsWith('node:') && library !== 'node:cluster') return undefined
  return HOMES[library] ?? ['nobody yet: give it a folder in HOMES']
}

function cyclesIn(tree: Tree): string[] {
  const cycles: string[] = []
  const done = new Set<string>()
  const visit = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) {
      cycles.push(`cycle: ${[...trail.slice(trail.indexOf(path)), path].join(' -> ')}`)
      return
    }
    if (done.has(path)) return
    for (const { from, typeOnly } of importsOf(tree.get(path) ?? '')) {
      if (!typeOnly && from.startsWith('.')) visit(join(path, '..', from), [...trail, path])
    }
    done.add(path)
  }
  for (const path of tree.keys()) visit(path, [])
  return cycles
}

test('src keeps the rules', () => {
  expect(mistakesIn(readTree())).toEqual([])
})

describe('the checker sees', () => {
  const sound: Record<string, string> = {
    'core/errors.ts': '',
    'redis/client.ts': "import { Redis } from 'ioredis'\nimport { E } from '../core/errors.ts'",
    'bus/bus.ts': "import type { Redis } from 'ioredis'\nimport { open } from '../redis/client.ts'",
    'bus/channel.ts': "import cluster from 'node:cluster'\nprocess.send?.('x')",
    'bus/index.ts': "export { createBus } from './bus.ts'",
    'context.ts': "import { createBus } from './bus/index.ts'",
    'session/session.ts': "import session from 'express-session'\nimport type { Ctx } from '../context.ts'",
    'session/index.ts': "export * from './session.ts'",
    'cache/cache.ts': "import { Ctx } from '../context.ts'",
    'cache/index.ts': "export * from './cache.ts'",
    'cluster/primary.ts': "import { createBus } from '../bus/index.ts'\nimport cluster from 'node:cluster'",
    'cluster/index.ts': "export * from './primary.ts'",
    'cli/main.ts':
      "import { Command } from 'commander'\nimport { run } from '../cluster/index.ts'\nconst x = await import('../redis/client.ts')",
    'default-bus.ts': "import { ctx } from './context.ts'\nexport type {\n  Bus,\n} from './bus/index.ts'",
    'shared.ts':
      "import { createSession } from './session/index.ts'\nimport { createCache } from './cache/index.ts'",
    'index.ts': "export * from './shared.ts'\nexport * from './cluster/index.ts'",
  }
  const withChange = (path: string, text: string): string[] =>
    mistakesIn(new Map(Object.entries({ ...sound, [path]: `${sound[path] ?? ''}\n${text}` })))

  test('nothing wrong in a sound tree', () => {
    expect(mistakesIn(new Map(Object.entries(sound)))).toEqual([])
  })

  test.each<[string, string, string, RegExp]>([
    [
      'core importing redis',
      'core/errors.ts',
      "import { open } from '../redis/client.ts'",
      /core may import itself$/,
    ],
    [
      'redis importing bus',
      'redis/client.ts',
      "export { createBus } from '../bus/index.ts'",
      /redis may import itself, core$/,
    ],
    ['bus importing context', 'bus/bus.ts', "import type { Ctx } from '../context.ts'", /bus may import/],
    [
      'context importing a room',
      'context.ts',
      "import { s } from './session/index.ts'",
      /context may import/,
    ],
    [
      'a room importing a room',
      'cache/cache.ts',
      "import { s } from '../session/index.ts'",
      /cache may import/,
    ],
    [
      '… even its types',
      'cache/cache.ts',
      "import type { S } from '../session/index.ts'",
      /cache may import/,
    ],
    ['… even later', 'cache/cache.ts', "await import('../session/index.ts')", /cache may import/],
    [
      'a room importing cluster',
      'cache/cache.ts',
      "import { c } from '../cluster/index.ts'",
      /cache may import/,
    ],
    ['a room importing shared', 'cache/cache.ts', "import { c } from '../shared.ts'", /cache may import/],
    [
      'cluster importing context',
      'cluster/primary.ts',
      "import { c } from '../context.ts'",
      /cluster may import/,
    ],
    [
      'cluster importing a room',
      'cluster/primary.ts',
      "import { c } from '../cache/index.ts'",
      /cluster may import/,
    ],
    ['cli importing bus', 'cli/main.ts', "import { c } from '../bus/index.ts'", /cli may import/],
    [
      'a short form importing a room',
      'default-bus.ts',
      "import { c } from './cache/index.ts'",
      /only shared and index wire rooms/,
    ],
    [
      'a step past an index',
      'context.ts',
      "import { b } from './bus/bus.ts'",
      /past bus\/index.ts: bus\/bus.ts/,
    ],
    ['… by the wiring too', 'shared.ts', "import { c } from './cache/cache.ts'", /past cache\/index.ts/],
    ['a file that is not there', 'cache/cache.ts', "import './gone.ts'", /not there/],
    [
      'a cycle',
      'cache/cache.ts',
      "import { x } from './index.ts'",
      /cycle: cache\/cache.ts -> cache\/index.ts -> cache\/cache.ts/,
    ],
    [
      'ioredis outside redis',
      'bus/bus.ts',
      "import { type Cluster, Redis } from 'ioredis'",
      /ioredis, which belongs to redis/,
    ],
    ['… spread over lines', 'cache/cache.ts', "import {\n  Redis,\n} from 'ioredis'", /ioredis/],
    ['… a part of it', 'cache/cache.ts', "import x from 'ioredis/built/utils'", /ioredis/],
    ['… re-exported', 'cache/cache.ts', "export { Redis } from 'ioredis'", /ioredis/],
    [
      'express-session outside session',
      'cache/cache.ts',
      "import s from 'express-session'",
      /belongs to session/,
    ],
    ['connect-redis outside session', 'cache/cache.ts', "import 'connect-redis'", /belongs to session/],
    ['commander outside cli', 'cluster/primary.ts', "import { Command } from 'commander'", /belongs to cli/],
    [
      'node:cluster outside cluster',
      'cache/cache.ts',
      "import cluster from 'node:cluster'",
      /belongs to cluster/,
    ],
    [
      '… and in another file of bus',
      'bus/bus.ts',
      "import cluster from 'node:cluster'",
      /belongs to cluster/,
    ],
    ['process.send outside cluster', 'bus/bus.ts', "process.send?.('x')", /process.send/],
    ['a library without a folder', 'cache/cache.ts', "import x from 'lodash'", /nobody yet/],
  ])('%s', (_what, path, text, mistake) => {
    expect(withChange(path, text)).toContainEqual(expect.stringMatching(mistake))
  })

  test('… but not types of a library, comments, or ordinary node modules', () => {
    const harmless = [
      "import type { Redis } from 'ioredis'",
      "import { type Redis, type Cluster } from 'ioredis'",
      "export type { Redis } from 'ioredis'",
      "/** @example\nimport { Redis } from 'ioredis'\n */",
      "// import { Redis } from 'ioredis'",
      "import { join } from 'node:path'",
    ]
    for (const text of harmless) expect(withChange('cache/cache.ts', text)).toEqual([])
  })
})

/** Imports its argument and prints the URLs and paths of every module that came with it. */
const LOAD_AND_TELL = `import { createRequire, register } from 'node:module'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'
const { port1, port2 } = new MessageChannel()
const hooks = \`let port
export const initialize = (data) => { port = data.port }
export const load = (url, context, next) => { port.postMessage(url); return next(url, context) }\`
register('data:text/javascript,' + encodeURIComponent(hooks), { data: { port: port2 }, transferList: [port2] })
await import(process.argv[2])
const loaded = Object.keys(createRequire(import.meta.url).cache)
for (let told = receiveMessageOnPort(port1); told; told = receiveMessageOnPort(port1)) loaded.push(told.message)
port1.close()
console.log(JSON.stringify(loaded))`

interface Manifest {
  name: string
  exports: Record<string, string | { types: string; default: string }>
}
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest
const subpaths = Object.entries(manifest.exports).flatMap(([subpath, target]) =>
  typeof target === 'string' ? [] : [[subpath, target] as const],
)

test('the image is built from all files that the build reads', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: { build: string }
  }
  const read = [...scripts.build.matchAll(/ -[pc] (\S+)/g)].map(([, file]) => file as string)
  expect(read.length).toBeGreaterThan(1)
  const copied = readFileSync(join(root, 'examples/compose/Dockerfile'), 'utf8').split(/\s+/)
  const sent = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n')
  expect(copied).toEqual(expect.arrayContaining(read))
  expect(sent).toEqual(expect.arrayContaining(read.map((file) => `!${file}`)))
})

describe.runIf(existsSync(join(root, 'dist/index.js')))('the built package', () => {
  test.each(subpaths)('%s is built, with types, from a source of that name', (_subpath, target) => {
    for (const file of [target.default, target.types]) expect(existsSync(join(root, file)), file).toBe(true)
    expect(existsSync(join(root, target.default.replace(/^\.\/dist/, 'src').replace(/\.js$/, '.ts')))).toBe(
      true,
    )
  })

  test('every room is a subpath', () => {
    const rooms = readdirSync(join(root, 'src'), { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && existsSync(join(root, 'src', entry.name, 'index.ts')))
      .map(({ name }) => `./${name}`)
    expect(subpaths.map(([subpath]) => subpath)).toEqual(expect.arrayContaining(rooms))
  })

  /** What each subpath loads; whatever is in HOMES and not here must not be loaded by it. */
  const LOADS: Readonly<Record<string, readonly string[]>> = {
    '.': Object.keys(HOMES).filter((library) => !['commander', 'yaml'].includes(library)),
    './cluster': ['cluster', 'node:cluster', 'ioredis'],
    './bus': ['ioredis'],
    './session': ['ioredis', 'express-session', 'connect-redis'],
    './cache': ['ioredis', 'lru-cache'],
    './keyv': ['ioredis', 'lru-cache'],
    './rate-limit': ['ioredis', 'rate-limiter-flexible'],
    './lock': ['ioredis', 'croner'],
    './map': ['ioredis'],
    './metrics': ['ioredis', 'prom-client'],
  }

  test.each(subpaths)("importing %s loads no other room's library, and opens nothing", async (subpath) => {
    const script = join(tempDir(), 'load.mjs')
    writeFileSync(script, LOAD_AND_TELL)
    const entry = import.meta.resolve(`${manifest.name}${subpath.slice(1)}`)
    const run = runNode(script, { args: [entry] })
    expect(await run.exit, run.stderr()).toEqual({ code: 0, signal: null }) // by itself: nothing is open
    const loaded = JSON.parse(run.stdout()) as string[]
    expect(loaded.some((url) => url.includes('/dist/'))).toBe(true)
    const libraries = Object.keys(HOMES).filter((library) =>
      loaded.some((url) => url.includes(`/node_modules/${library}/`)),
    )
    for (const library of libraries) expect(LOADS[subpath], `${subpath} loads ${library}`).toContain(library)
  })
})
