import { execFile } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { freePort, runNode } from '../helpers/fork.ts'
import { get, request } from '../helpers/http.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'
import { filesOf, readmes, root, snippetsOf } from './snippets.ts'

const run = promisify(execFile)

/** A project of somebody who has installed the package: `as-one` is what is built, with what it exports. */
function installed(): string {
  const project = tempDir()
  const modules = join(project, 'node_modules')
  mkdirSync(modules)
  for (const name of readdirSync(join(root, 'node_modules')))
    if (!name.startsWith('.')) symlinkSync(join(root, 'node_modules', name), join(modules, name))
  symlinkSync(root, join(modules, 'as-one'))
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'shop', type: 'module' }))
  return project
}

/** tsc, as strict as a reader's may be; resolves with its complaints. */
async function complaints(project: string, options: object, files: readonly string[]): Promise<string> {
  const config = join(project, 'tsconfig.json')
  const compilerOptions = {
    target: 'es2023',
    lib: ['es2023', 'esnext.disposable'],
    types: ['node'],
    strict: true,
    noEmit: true,
    allowJs: true,
    checkJs: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    ...options,
  }
  writeFileSync(config, JSON.stringify({ compilerOptions, files }))
  try {
    await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', config], {
      encoding: 'utf8',
    })
    return ''
  } catch (error) {
    return (error as { stdout: string }).stdout
  }
}

describe('every snippet of the READMEs type-checks', () => {
  const snippets = readmes().flatMap(snippetsOf)
  let project: string
  beforeAll(() => {
    project = installed()
    copyFileSync(join(root, 'test/docs/free-names.d.ts'), join(project, 'free-names.d.ts'))
  })

  test.each([
    ['ts', { module: 'nodenext' }],
    ['js', { module: 'nodenext', strictNullChecks: false, exactOptionalPropertyTypes: false }], // as in an editor
  ] as const)('%s', async (language, options) => {
    const files = snippets
      .filter((snippet) => snippet.language === language)
      .flatMap((snippet) => {
        const folder = join(project, snippet.where.replaceAll(/\W+/g, '-'))
        mkdirSync(folder)
        writeFileSync(join(folder, 'app.js'), 'export default new (await import("node:http")).Server()') // what a snippet may import
        return filesOf(snippet).map(({ name, code }) => {
          const path = join(folder, name || `snippet.${language}`)
          writeFileSync(path, `${code.replaceAll('=> …', '=> {}')}\nexport {}\n`)
          return path
        })
      })
    expect(files.length).toBeGreaterThan(1)
    expect(await complaints(project, options, ['free-names.d.ts', ...files])).toBe('')
  })
})

describe('the types of the package are right for those who check them', () => {
  test.each([
    { module: 'node16', verbatimModuleSyntax: true },
    { module: 'esnext', moduleResolution: 'bundler', exactOptionalPropertyTypes: false },
  ])('%o, skipLibCheck: false', async (options) => {
    const project = installed()
    const entries = ['', '/cluster', '/bus', '/cache', '/keyv', '/session', '/rate-limit', '/cli']
    const imports = entries.map((entry, i) => `export * as m${i} from 'as-one${entry}'`).join('\n')
    writeFileSync(join(project, 'all.ts'), imports)
    const found = await complaints(project, { ...options, skipLibCheck: false }, ['all.ts'])
    const ours = found.split('\n').filter((line) => /(^|\/)(dist\/|all\.ts)/.test(line))
    expect(ours.join('\n'), found).toBe('')
  })
})

describe('the page of the README', () => {
  test('runs as it is written', async () => {
    const project = installed()
    const [page] = snippetsOf('README.md')
    const files = page ? filesOf(page) : []
    expect(files.map(({ name }) => name)).toEqual(['app.js', 'server.js'])
    for (const { name, code } of files) writeFileSync(join(project, basename(name)), code)
    // The reader's database, and a port that is free here.
    writeFileSync(
      join(project, 'own-code.mjs'),
      `import cluster from 'node:cluster'
      cluster.on('listening', () => console.log('listens'))
      globalThis.db = {
        product: async (id) => ({ id, worker: process.env.AS_ONE_WORKER, at: process.hrtime.bigint().toString() }),
        save: async () => {},
      }
      globalThis.recommendations = { forget: (id) => console.log('forgotten ' + id) }`,
    )
    const port = await freePort()
    const server = join(project, 'server.js')
    writeFileSync(server, files[1]?.code.replace('port: 3000', `port: ${port}`) ?? '')
    const cluster = runNode(server, {
      cwd: project,
      env: {
        NODE_OPTIONS: `--import ${join(project, 'own-code.mjs')}`,
        SESSION_SECRET: 'of the reader',
        WEB_CONCURRENCY: '2',
        REDIS_URL: sharedRedis().url,
        AS_ONE_NAMESPACE: testNamespace(),
      },
    })
    await cluster.waitFor(() => cluster.lines.filter((line) => line === 'listens').length === 2, 60_000)
    const url = `http://localhost:${port}/products/7`
    const begun = performance.now()
    const { at } = (await get(url)).json<{ at: string }>()
    for (let i = 0; i < 4; i++) expect((await get(url)).json()).toMatchObject({ at })

    expect((await request(url, { method: 'POST', body: { price: 8 } })).status).toBe(204)
    await cluster.waitFor(() => cluster.lines.filter((line) => line === 'forgotten 7').length === 2)
    await cluster.waitFor(async () => (await get(url)).json<{ at: string }>().at !== at)

    // 100 per minute, of which a slow machine sees some come back meanwhile.
    const most = () => 100 + (100 * (performance.now() - begun)) / 60_000
    let last = await get(url)
    for (let i = 0; i < most() && last.status === 200; i++) last = await get(url)
    expect(last.status).toBe(429) // one budget for both workers
  })
})

describe('links', () => {
  test.each(readmes())('%s: each leads to something that is there', (file) => {
    const text = readFileSync(join(root, file), 'utf8')
    const links = [...text.matchAll(/\]\((?!\w+:)([^)#\s]+)/g)].map(([, link = '']) => link)
    expect(links.filter((link) => !existsSync(join(root, dirname(file), link)))).toEqual([])
  })

  test('the READMEs of the rooms are packed, since nobody has another documentation', async () => {
    const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root })
    const found: unknown = JSON.parse(stdout)
    const [packed] = (Array.isArray(found) ? found : Object.values(found as object)) as [
      { files: { path: string }[] },
    ]
    const paths = packed.files.map(({ path }) => path)
    expect(paths).toEqual(
      expect.arrayContaining(['README.md', ...readmes().filter((file) => /^src/.test(file))]),
    )
    expect(paths.filter((path) => !/^(dist\/.*\.(js|d\.ts)|src\/.*\.md|[^/]+)$/.test(path))).toEqual([])
  })
})
