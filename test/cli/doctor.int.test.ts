import { spawn } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { freePort, runNode } from '../helpers/fork.ts'
import { startRedis } from '../helpers/redis.ts'
import requireDist from '../helpers/require-dist.ts'

beforeAll(requireDist)

interface Outcome {
  code: number | null
  stdout: string
  stderr: string
}

const main = new URL('../../dist/cli/main.js', import.meta.url)

async function asOne(args: string[], env: Record<string, string | undefined> = {}): Promise<Outcome> {
  const run = runNode(main, { args, env })
  const { code } = await run.exit
  return { code, stdout: run.stdout(), stderr: run.stderr() }
}

/** A PATH on which nothing is but what is put there. */
function emptyPath(commands: Record<string, string> = {}): string {
  const bin = tempDir()
  for (const [name, script] of Object.entries(commands)) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  }
  return bin
}

/** apt-get that notes how it was called and "installs" a server beside itself; apt-cache that knows the package. */
function fakeApt(more: Record<string, string> = {}): { bin: string; calls: () => string[] } {
  const bin = emptyPath({
    'apt-get': [
      'here=$(dirname "$0")',
      'echo "apt-get $* frontend=$DEBIAN_FRONTEND" >>"$here/calls"',
      'if read -r line; then echo "stdin is open" >>"$here/calls"; fi',
      'case $1 in',
      'update) touch "$here/lists" ;;',
      'install)',
      '  printf \'#!/bin/sh\\necho "Redis server v=7.0.15 sha=0"\\n\' >"$here/redis-server"',
      '  chmod 755 "$here/redis-server" ;;',
      'esac',
    ].join('\n'),
    'apt-cache': [
      'here=$(dirname "$0")',
      '[ -e "$here/lists" ] && [ "$2" = redis-server ] || exit 0',
      'printf "redis-server:\\n  Installed: (none)\\n  Candidate: 5:7.0.15-1~deb12u1\\n"',
    ].join('\n'),
    ...more,
  })
  chmodSync(bin, 0o777)
  const calls = (): string[] =>
    existsSync(join(bin, 'calls')) ? readFileSync(join(bin, 'calls'), 'utf8').trim().split('\n') : []
  return { bin, calls }
}

const isRoot = process.getuid?.() === 0

describe('as-one', () => {
  test('tells its version and its commands, and the nearest one to a mistyped one', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string
    }
    expect(await asOne(['--version'])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
    const help = await asOne(['--help'])
    expect(help).toMatchObject({ code: 0, stderr: '' })
    expect(help.stdout).toContain('doctor')
    expect(await asOne(['docter'])).toEqual({
      code: 1,
      stdout: '',
      stderr: "as-one: unknown command 'docter' (Did you mean doctor?)\n",
    })
    expect(await asOne(['doctor', '--fxi'])).toMatchObject({
      code: 1,
      stderr: "as-one: unknown option '--fxi' (Did you mean --fix?)\n",
    })
  })
})

describe('as-one doctor', () => {
  test('finds everything in order, in words, as JSON and in silence', async () => {
    const server = 'echo "Valkey server v=8.1.0 sha=0"'
    const env = { PATH: emptyPath({ 'valkey-server': server }) }
    const words = await asOne(['doctor'], env)
    expect(words).toMatchObject({ code: 0, stderr: '' })
    expect(words.stdout).toMatch(
      /^ok +Node\.js .*\nok +\d+ workers? for 'max' .*\nok +Valkey 8\.1\.0 at .*\n$/,
    )
    const json = await asOne(['doctor', '--json'], env)
    expect(JSON.parse(json.stdout)).toMatchObject({
      ok: true,
      findings: [{ about: 'node' }, { about: 'cpus' }, { about: 'redis', status: 'ok' }],
    })
    expect(await asOne(['doctor', '--fix', '--quiet'], env)).toEqual({ code: 0, stdout: '', stderr: '' })
  })

  test('without a server: a problem, exit code 1, both ways out', async () => {
    const env = { PATH: emptyPath() }
    const { code, stdout } = await asOne(['doctor', '--quiet'], env)
    expect(code).toBe(1)
    expect(stdout).toMatch(
      /^problem {2}found neither redis-server nor valkey-server in PATH: set REDIS_URL .*npx as-one doctor --fix\n$/,
    )
    expect(JSON.parse((await asOne(['doctor', '--json'], env)).stdout)).toMatchObject({ ok: false })
  })

  test('a place that no server could be started in', async () => {
    const env = {
      PATH: emptyPath({ 'redis-server': 'echo "Redis server v=7.2.0"' }),
      XDG_STATE_HOME: undefined,
      HOME: undefined,
    }
    const { code, stdout } = await asOne(['doctor'], env)
    expect(code).toBe(1)
    expect(stdout).toMatch(/^problem .*neither XDG_STATE_HOME nor HOME is set/m)
  })

  test('production without REDIS_URL is a warning', async () => {
    const env = { PATH: emptyPath({ 'redis-server': 'echo "Redis server v=7.2.0"' }), NODE_ENV: 'production' }
    const { code, stdout } = await asOne(['doctor'], env)
    expect(code).toBe(0)
    expect(stdout).toMatch(/^warning {2}NODE_ENV is production and REDIS_URL is not set/m)
  })
})

describe('as-one doctor --fix', () => {
  test('installs nothing when it is forbidden, and prints the command', async () => {
    const { bin, calls } = fakeApt()
    const { code, stdout } = await asOne(['doctor', '--fix', '--quiet'], {
      PATH: bin,
      AS_ONE_INSTALL_REDIS: '0',
    })
    expect(code).toBe(1)
    expect(stdout).toMatch(
      /AS_ONE_INSTALL_REDIS=0 forbids it; run: (sudo )?apt-get update && (sudo )?apt-get install -y redis-server\n$/,
    )
    expect(calls()).toEqual([])
  })

  test('prints the command of a system without apt-get, and says so when there is none', async () => {
    const alpine = await asOne(['doctor', '--fix'], { PATH: emptyPath({ apk: 'exit 1' }) })
    expect(alpine).toMatchObject({ code: 1 })
    expect(alpine.stdout).toMatch(
      /cannot install redis-server: this is not a system with apt-get; run: (sudo )?apk add redis$/m,
    )
    const bare = await asOne(['doctor', '--fix'], { PATH: emptyPath() })
    expect(bare).toMatchObject({ code: 1 })
    expect(bare.stdout).toMatch(/found none of apt-get, dnf/)
  })

  test.runIf(isRoot)('as root: says what it does, asks nothing, and is in order afterwards', async () => {
    const { bin, calls } = fakeApt()
    const { code, stdout, stderr } = await asOne(['doctor', '--fix'], { PATH: bin })
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr:
        'as-one: apt-get update: the package lists are missing\nas-one: installing the package redis-server 7.0.15-1~deb12u1 with apt-get; its service is not started\n',
    })
    expect(stdout).toMatch(/^ok +Redis 7\.0\.15 at /m)
    expect(calls()).toEqual([
      expect.stringMatching(/^apt-get update /),
      'apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 redis-server frontend=noninteractive',
    ])
  })

  test.runIf(isRoot)(
    'a failed installation: tried again with fresh lists, then the reason and the command',
    async () => {
      const { bin, calls } = fakeApt()
      writeFileSync(join(bin, 'lists'), '')
      writeFileSync(
        join(bin, 'apt-get'),
        '#!/bin/sh\necho "$1" >>"$(dirname "$0")/calls"\n[ "$1" = update ] || { echo "E: Unable to fetch some archives" >&2; exit 100; }\n',
      )
      const { code, stdout } = await asOne(['doctor', '--fix'], { PATH: bin })
      expect(code).toBe(1)
      expect(stdout).toMatch(
        /apt-get install redis-server failed with exit code 100, E: Unable to fetch some archives; run: apt-get update && apt-get install/,
      )
      expect(calls()).toEqual(['install', 'update', 'install'])
    },
  )

  test.runIf(isRoot)('a package that is too old is not installed', async () => {
    const { bin, calls } = fakeApt({
      'apt-cache': 'printf "redis-server:\\n  Candidate: 5:6.0.16-1ubuntu1\\n"',
    })
    const { code, stdout } = await asOne(['doctor', '--fix'], { PATH: bin })
    expect(code).toBe(1)
    expect(stdout).toMatch(/offers redis-server 6\.0\.16-1ubuntu1, as-one needs >= 7\.0/)
    expect(calls()).toEqual([])
  })

  test.runIf(isRoot)('as somebody else: through passwordless sudo, or not at all', async () => {
    const record = 'echo "sudo $*" >>"$(dirname "$0")/calls"'
    const refuses = fakeApt({ sudo: `${record}\nexit 1` })
    const refused = await asNobody(refuses.bin)
    expect(refused.code).toBe(1)
    expect(refused.stdout).toMatch(
      /it needs root or passwordless sudo; run: sudo apt-get update && sudo apt-get install -y redis-server\n$/,
    )
    expect(refuses.calls()).toEqual(['sudo -n true'])

    const permits = fakeApt({ sudo: `${record}\nshift\nexec "$@"` })
    expect(await asNobody(permits.bin)).toMatchObject({ code: 0 })
    expect(
      permits
        .calls()
        .filter((call) => call.startsWith('sudo'))
        .map((call) => call.split(' ').slice(0, 4).join(' ')),
    ).toEqual(['sudo -n true', 'sudo -n apt-get update', 'sudo -n sh -c'])
    expect(permits.calls().at(-1)).toMatch(/^apt-get install -y .* redis-server frontend=noninteractive$/)
  })

  test('REDIS_URL or an explicit server: nothing is installed', async () => {
    const { bin, calls } = fakeApt()
    const wrong = await asOne(['doctor', '--fix'], { PATH: bin, AS_ONE_REDIS_SERVER: '/nowhere/redis' })
    expect(wrong.stdout).toMatch(/^problem .*AS_ONE_REDIS_SERVER/m)
    const away = await asOne(['doctor', '--fix'], {
      PATH: bin,
      REDIS_URL: `redis://127.0.0.1:${await freePort()}`,
    })
    expect(away).toMatchObject({ code: 1 })
    expect(calls()).toEqual([])
  })
})

/** Runs a copy of the built command, since another user may not be able to read the checkout. */
async function asNobody(bin: string): Promise<Outcome> {
  const nobody = 65534
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const copy = tempDir()
  chmodSync(copy, 0o755)
  cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true })
  cpSync(join(root, 'package.json'), join(copy, 'package.json'))
  mkdirSync(join(copy, 'node_modules'))
  for (const name of ['commander', 'ioredis', 'yaml']) {
    const at = join(root, 'node_modules', name)
    symlinkSync(at, join(copy, 'node_modules', name))
  }
  const child = spawn(process.execPath, [join(copy, 'dist/cli/main.js'), 'doctor', '--fix'], {
    env: { PATH: bin, XDG_STATE_HOME: dirname(copy) },
    uid: nobody,
    gid: nobody,
    cwd: copy,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output.stderr += text
  })
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, ...output }
}

describe('as-one doctor with REDIS_URL', () => {
  test('asks the server: version, tracking, eviction, persistence', async () => {
    const redis = await startRedis({ persist: true, args: ['--requirepass', 'geheim'] })
    const url = new URL(redis.url)
    url.password = 'geheim'
    const { code, stdout } = await asOne(['doctor'], { PATH: emptyPath(), REDIS_URL: url.href })
    expect(stdout.replace(/\n/g, '|')).toMatch(
      /\|ok +127\.0\.0\.1:\d+ answers\|ok +(Redis|Valkey) \d\S*\|ok +CLIENT TRACKING is permitted\|ok +no maxmemory, so nothing is evicted\|ok +append-only file\|$/,
    )
    expect(stdout).not.toContain('geheim')
    expect(code).toBe(0)
  })

  test('warns of eviction, of lost data and of forbidden tracking', async () => {
    const redis = await startRedis({ args: ['--maxmemory', '64mb', '--maxmemory-policy', 'allkeys-lru'] })
    await redis.client().call('ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-client|tracking')
    const url = new URL(redis.url)
    Object.assign(url, { username: 'app', password: 'pw' })
    const { code, stdout } = await asOne(['doctor'], { REDIS_URL: url.href })
    expect(code).toBe(0)
    expect(stdout).toMatch(/^warning {2}CLIENT TRACKING is refused \(NOPERM.*\)/m)
    expect(stdout).toMatch(/^warning {2}maxmemory-policy is allkeys-lru/m)
    expect(stdout).toMatch(/^warning {2}no persistence/m)
  })

  test('a replica, an unreachable server, a wrong password and a wrong URL are problems', async () => {
    const master = await startRedis()
    const locked = await startRedis({ args: ['--requirepass', 'right'] })
    const replica = await startRedis({ args: ['--replicaof', '127.0.0.1', String(master.port)] })
    const outcomes = await Promise.all(
      [
        replica.url,
        `redis://127.0.0.1:${await freePort()}`,
        `redis://:wrong@127.0.0.1:${locked.port}`,
        'http://localhost',
      ].map((url) => asOne(['doctor', '--quiet'], { REDIS_URL: url })),
    )
    for (const { code, stdout, stderr } of outcomes) {
      expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
      expect(stdout).toMatch(/^problem .*\n$/)
      expect(stdout).not.toContain('wrong@')
    }
    expect(outcomes[0]?.stdout).toContain('read-only replica')
    expect(outcomes[3]?.stdout).toContain('REDIS_URL must start with')
  })
})
