import { execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { Redis } from 'ioredis'
import { beforeAll, describe, expect, onTestFinished, type TestContext, test } from 'vitest'
import { type LocalRedis, type LocalRedisOptions, startLocalRedis } from '../../src/redis/local-redis.ts'
import { tempDir, track } from '../helpers/cleanup.ts'
import { commandOf, isAlive, type NodeProcess, pidsOf, runNode, until } from '../helpers/fork.ts'
import { long } from '../helpers/long.ts'
import { redisBinary } from '../helpers/redis-server.ts'
import requireDist from '../helpers/require-dist.ts'
import { runningClock } from '../helpers/running-clock.ts'

beforeAll(requireDist)

const clock = runningClock()
/** For a busy machine, which keeps the users from their cores. */
const margin = 2_000

const inDir = (dir: string): RegExp => new RegExp(dir.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
const serversOf = (dir: string): number[] =>
  pidsOf(inDir(dir)).filter((pid) => /^\S*(redis|valkey)-server /.test(commandOf(pid)))
const guardiansOf = (dir: string): number[] =>
  pidsOf(inDir(dir)).filter((pid) => commandOf(pid).includes(' as-one-guardian '))
/** Everything of ours in a directory: a guardian's `sleep` shows only as its child. */
function processesOf(dir: string): number[] {
  const named = [...serversOf(dir), ...guardiansOf(dir)]
  return [...named, ...named.flatMap((parent) => pidsOf({ parent }))]
}

async function nothingLeft(dir: string, deadline = 10_000): Promise<void> {
  await until(() => processesOf(dir).length === 0, { what: `no process left of ${dir}`, deadline })
}

async function start(options: Partial<LocalRedisOptions> = {}): Promise<LocalRedis> {
  return track(await startLocalRedis({ name: 'app', cwd: '/srv/app', stateHome: tempDir(), ...options }))
}

async function withClient<T>(redis: { socketPath: string }, use: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(redis.socketPath, { maxRetriesPerRequest: 50, retryStrategy: () => 20 })
  client.on('error', () => {}) // tests kill the server under it
  try {
    return await use(client)
  } finally {
    client.disconnect()
  }
}

interface User {
  process: NodeProcess
  ask<T>(command: string): Promise<T>
  heard(event: string): unknown[]
}

/** A process that uses the managed Redis below `stateHome`. */
async function user(stateHome: string, graceMs = 300): Promise<User> {
  const process = runNode(new URL('local-redis-user.mjs', import.meta.url), {
    ipc: true,
    args: [JSON.stringify({ graceMs, stateHome })],
  })
  const heard = (event: string): unknown[] =>
    process.messages.flatMap((message) =>
      event in (message as object) ? [(message as Record<string, unknown>)[event]] : [],
    )
  const answers = (command: string): unknown[] =>
    process.messages.filter((message) => (message as { to?: string }).to === command)
  await process.waitFor(() => heard('loaded').length)
  return {
    process,
    heard,
    async ask<T>(command: string) {
      const before = answers(command).length
      process.send(command)
      return (await process.waitFor(() => answers(command)[before])) as T
    },
  }
}

interface Started {
  started: number
  dir: string
  failed?: string
}

describe('one user', () => {
  test('finds a private server: unix socket only, nobody else may read anything', async () => {
    const redis = await start({ name: '@shop/api' })
    expect(redis.dir).toMatch(/\/as-one\/shop_api-[0-9a-f]{10}$/)
    expect(redis.url).toBe(`unix://${redis.socketPath}`)
    const mode = (path: string): string => (statSync(path).mode & 0o777).toString(8)
    expect(
      [redis.dir, redis.socketPath, `${redis.dir}/redis.log`, `${redis.dir}/redis.conf`].map(mode),
    ).toEqual(['700', '700', '600', '600'])
    const settings = { port: '0', appendonly: 'yes', appendfsync: 'everysec', save: '' }
    await withClient(redis, async (client) => {
      for (const [name, value] of Object.entries(settings))
        expect(await client.config('GET', name)).toEqual([name, value])
    })
    expect(serversOf(redis.dir)).toEqual([redis.pid()])
  })

  test('stop() resolves when the server has gone, and the next start has the data', async () => {
    const stateHome = tempDir()
    const first = await start({ stateHome })
    const { dir } = first
    const pid = first.pid() as number
    await withClient(first, (client) => client.set('kept', 'yes'))
    await Promise.all([first.stop(), first.stop()])
    expect(isAlive(pid)).toBe(false)
    expect(processesOf(dir)).toEqual([])
    expect(first.pid()).toBeUndefined()
    const second = await start({ stateHome })
    expect(await withClient(second, (client) => client.get('kept'))).toBe('yes')
  })

  test('a directory with blanks, quotes and backslashes works', async () => {
    const redis = await start({ stateHome: join(tempDir(), `it's "a" \\ b`) })
    expect(await withClient(redis, (client) => client.ping())).toBe('PONG')
    await redis.stop()
    expect(serversOf(redis.dir)).toEqual([])
  })

  test('does not keep a process alive that has nothing else to do', async () => {
    const idle = runNode(new URL('local-redis-idle.mjs', import.meta.url))
    await idle.waitFor(/redis \d+/)
    expect(await idle.exit).toMatchObject({ code: 0 })
    await nothingLeft(idle.stateDir)
  })

  test('an aborted start leaves nothing behind', async () => {
    const stateHome = tempDir()
    for (const ms of [0, 5, 15, 25, 35]) {
      await start({ stateHome, signal: AbortSignal.timeout(ms) }).then(
        (redis) => redis.stop(),
        (error) => expect(error).toMatchObject({ code: 'ERR_AS_ONE_ABORTED' }),
      )
      expect(processesOf(stateHome)).toEqual([])
    }
    await expect(start({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
  })

  test('an abort while the server writes its pid file leaves no server behind', async () => {
    const stateHome = tempDir()
    const program = join(tempDir(), 'redis-server')
    const script = [
      '#!/bin/sh',
      'if [ "$1" = --version ]; then echo "Redis server v=7.0.15"; exit; fi',
      'sleep 0.1', // until its parent has written it
      ': >redis.pid',
      'exec tail -f "$1"',
    ]
    writeFileSync(program, script.join('\n'), { mode: 0o700 })
    const abort = new AbortController()
    const env = { PATH: process.env.PATH ?? '', AS_ONE_REDIS_SERVER: program }
    const starting = start({ stateHome, env, signal: abort.signal })
    starting.catch(() => {}) // looked at below
    const servers = (): number[] =>
      pidsOf(inDir(stateHome)).filter((pid) => commandOf(pid).startsWith('tail '))
    await until(() => servers().length > 0, { what: 'the pid file to be half written' })
    abort.abort()
    await expect(starting).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
    onTestFinished(() => {
      for (const pid of servers()) process.kill(pid, 'SIGKILL')
    })
    expect(servers()).toEqual([])
  })

  test('a guardian that was killed is replaced', async () => {
    const redis = await start()
    const [guardian] = guardiansOf(redis.dir)
    process.kill(guardian as number, 'SIGKILL')
    await until(() => guardiansOf(redis.dir).some((pid) => pid !== guardian), { what: 'another guardian' })
    await redis.stop()
    expect(processesOf(redis.dir)).toEqual([])
  })

  test('stop() still stops the server when somebody has removed the directory', async () => {
    const redis = await start()
    rmSync(redis.dir, { recursive: true })
    await redis.stop()
    expect(processesOf(redis.dir)).toEqual([])
  })
})

describe('the server dies', () => {
  test('kill -9: back within a second with its data, started by exactly one of three users', async () => {
    const stateHome = tempDir()
    const users = await Promise.all([user(stateHome), user(stateHome), user(stateHome)])
    const [first, ...others] = await Promise.all(users.map((each) => each.ask<Started>('start')))
    const { started: pid, dir } = first as Started
    expect(others.map((other) => other.started)).toEqual([pid, pid])

    const socketPath = join(dir, 'redis.sock')
    await withClient({ socketPath }, async (client) => {
      await client.set('kept', 'yes')
      const killedAt = clock()
      process.kill(pid, 'SIGKILL')
      await until(async () => (await client.get('kept')) === 'yes', { what: 'the data to be back' })
      const backMs = clock() - killedAt
      console.log(`killed, back with its data after ${backMs.toFixed(0)} ms`)
      expect(backMs).toBeLessThan(1_000 + margin)
    })
    await until(() => users.every((each) => each.heard('restarted').length === 1), {
      what: 'everybody to be told',
    })
    const told = users.flatMap((each) => each.heard('restarted')) as { pid: number; startedHere: boolean }[]
    expect(told.filter((how) => how.startedHere)).toHaveLength(1)
    expect(serversOf(dir)).toEqual([told[0]?.pid])
    for (const each of users) {
      expect(await each.ask('ping')).toMatchObject({ pid: told[0]?.pid })
      expect(each.heard('unhandled')).toEqual([])
      await each.ask('stop')
    }
    expect(processesOf(dir)).toEqual([])
  })

  test('a server that cannot come back is reported with its last log lines, and comes back once it can', async () => {
    const redis = await start()
    const reasons: string[] = []
    const restarts: number[] = []
    redis.on('down', (error) => reasons.push(error.message)).on('restarted', ({ pid }) => restarts.push(pid))
    const aof = join(redis.dir, 'appendonlydir')
    const manifest = join(aof, readdirSync(aof).find((file) => file.endsWith('.manifest')) as string)
    const healthy = readFileSync(manifest)
    writeFileSync(manifest, 'no manifest\n')
    process.kill(redis.pid() as number, 'SIGKILL')
    await until(() => reasons.length >= 2, { what: 'two reports' })
    expect(redis.pid()).toBeUndefined()
    expect(reasons[0]).toMatch(
      /redis-server exited with code 1 while starting, its last words in .*redis\.log:\n.*AOF/s,
    )
    writeFileSync(manifest, healthy)
    await until(() => restarts.length, { what: 'the restart' })
    expect(serversOf(redis.dir)).toEqual(restarts)
  })

  test('a start on broken data fails with the last log lines', async () => {
    const stateHome = tempDir()
    const redis = await start({ stateHome })
    await redis.stop()
    const aof = join(redis.dir, 'appendonlydir')
    for (const file of readdirSync(aof)) writeFileSync(join(aof, file), 'nonsense\n')
    await expect(start({ stateHome })).rejects.toMatchObject({
      code: 'ERR_AS_ONE_LOCAL_REDIS',
      message: expect.stringMatching(
        /exited with code 1 while starting, its last words in .*redis\.log:\n.*AOF/s,
      ),
    })
    expect(processesOf(redis.dir)).toEqual([])
  })
})

describe('the user dies', () => {
  test('kill -9: the server stays for the grace period, then nothing is left', async () => {
    const stateHome = tempDir()
    const graceMs = 2_500 // longer than a busy machine stands still
    const one = await user(stateHome, graceMs)
    const { started: pid, dir } = await one.ask<Started>('start')
    const killedAt = performance.now()
    one.process.kill('SIGKILL')
    const { signal } = await one.process.exit
    expect(signal).toBe('SIGKILL')
    expect(isAlive(pid)).toBe(true)
    await until(() => !isAlive(pid), { what: 'the server to be stopped' })
    expect(performance.now() - killedAt).toBeGreaterThan(graceMs - 100)
    await nothingLeft(dir)
    expect(readdirSync(join(dir, 'users'))).toEqual([])
    expect(readdirSync(dir).filter((file) => /lock/.test(file))).toEqual([])
    expect(readFileSync(join(dir, 'redis.log'), 'utf8')).toContain('Redis is now ready to exit')
  })

  test('a new primary that comes within the grace period takes over the same server', async () => {
    const stateHome = tempDir()
    // Both run already: the start of a process may take longer than the grace period.
    const [one, two] = [await user(stateHome, 2_500), await user(stateHome, 200)]
    const { started: pid, dir } = await one.ask<Started>('start')
    const [guardian] = guardiansOf(dir)
    one.process.kill('SIGKILL')
    await one.process.exit
    expect(await two.ask<Started>('start')).toMatchObject({ started: pid })
    await until(() => !isAlive(guardian as number), { what: 'the first guardian to end' })
    expect(isAlive(pid)).toBe(true)
    expect(await withClient({ socketPath: join(dir, 'redis.sock') }, (client) => client.ping())).toBe('PONG')
    two.process.kill('SIGKILL')
    await nothingLeft(dir)
    expect(isAlive(pid)).toBe(false)
  })

  test('children that outlive it do not keep the guardian waiting', async () => {
    const one = await user(tempDir(), 100)
    const { started: pid, dir } = await one.ask<Started>('start')
    const { child } = await one.ask<{ child: number }>('leaveChild')
    one.process.kill('SIGKILL')
    await nothingLeft(dir)
    expect(isAlive(pid)).toBe(false)
    expect(isAlive(child)).toBe(true)
  })

  test('Ctrl-C to the process group leaves the server to the user, until stop()', async () => {
    const one = await user(tempDir())
    const { started: pid, dir } = await one.ask<Started>('start')
    one.process.killGroup('SIGINT')
    await one.process.waitFor(() => one.heard('interrupted').length)
    expect(await withClient({ socketPath: join(dir, 'redis.sock') }, (client) => client.ping())).toBe('PONG')
    expect(guardiansOf(dir)).toHaveLength(1)
    await one.ask('stop')
    expect(isAlive(pid)).toBe(false)
    expect(processesOf(dir)).toEqual([])
  })
})

describe('several users', () => {
  test('the first to leave does not stop it, the last one does', async () => {
    const stateHome = tempDir()
    const [one, two] = [await start({ stateHome }), await start({ stateHome })]
    expect(two.pid()).toBe(one.pid())
    await one.stop()
    expect(await withClient(two, (client) => client.ping())).toBe('PONG')
    await two.stop()
    expect(processesOf(two.dir)).toEqual([])
  })

  test(
    'starters that race find one server',
    async () => {
      const stateHome = tempDir()
      const users = await Promise.all([user(stateHome), user(stateHome)])
      for (let round = 0; round < long(20, 200); round++) {
        const all = await Promise.all(users.map((each) => each.ask<Started>('start')))
        const pids = all.map(({ started, failed }) => failed ?? started)
        expect(new Set(pids).size, `round ${round}: ${pids}`).toBe(1)
        expect(serversOf(stateHome)).toEqual([pids[0]])
        await Promise.all(users.map((each) => each.ask('stop')))
        expect(serversOf(stateHome)).toEqual([])
      }
      expect(processesOf(stateHome)).toEqual([])
    },
    long(60_000, 600_000),
  )

  test('the lock of a dead process is taken over, by one of many', async () => {
    const stateHome = tempDir()
    const redis = await start({ stateHome })
    const { dir } = redis
    await redis.stop()
    const dead = `${process.pid}-1-ffffffff` // our pid, but not our start time
    for (let round = 0; round < 10; round++) {
      symlinkSync(dead.replace('f', String(round)), join(dir, 'lock'))
      const all = await Promise.all(
        [1, 2, 3, 4, 5].map(() => startLocalRedis({ name: 'app', cwd: '/srv/app', stateHome })),
      )
      expect(new Set(all.map((redis) => redis.pid())).size).toBe(1)
      expect(serversOf(dir)).toHaveLength(1)
      await Promise.all(all.map((redis) => redis.stop()))
      expect(processesOf(dir)).toEqual([])
    }
    expect(readdirSync(dir).filter((file) => /lock/.test(file))).toEqual([])
  })

  test(
    'users that come, leave and are killed at random: never two servers, none in the end',
    async () => {
      const stateHome = tempDir()
      const until_ = performance.now() + long(4_000, 60_000)
      let seen = 0
      const round = async (): Promise<void> => {
        while (performance.now() < until_ || seen <= 5) {
          const one = await user(stateHome, 100)
          if (Math.random() < 0.3) {
            // Somewhere in the middle of its start.
            one.process.send('start')
            await new Promise((resolve) => setTimeout(resolve, Math.random() * 60))
          } else {
            const answer = await one.ask<Started>('start')
            expect(answer.failed).toBeUndefined()
            seen++
            expect(serversOf(stateHome).length).toBeLessThan(2)
            if (Math.random() < 0.5) await one.ask('stop')
          }
          one.process.kill('SIGKILL')
          await one.process.exit
        }
      }
      await Promise.all([round(), round(), round()])
      expect(seen).toBeGreaterThan(5)
      await nothingLeft(stateHome)
    },
    long(30_000, 120_000),
  )
})

describe('refuses', () => {
  const refused = (message: RegExp) => ({
    code: 'ERR_AS_ONE_LOCAL_REDIS',
    message: expect.stringMatching(message),
  })
  const executable = (dir: string, name: string, script: string): void => {
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  }

  test('a machine without redis-server, naming both ways out', async () => {
    await expect(start({ env: { PATH: tempDir() } })).rejects.toMatchObject(
      refused(/neither redis-server nor valkey-server.*REDIS_URL.*npx as-one doctor --fix/),
    )
  })

  test('a server that is too old, by name and version; a good valkey-server beside it is used', async () => {
    const bin = tempDir()
    executable(
      bin,
      'redis-server',
      'echo "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64"',
    )
    const env = { PATH: bin, HOME: tempDir() }
    await expect(start({ env })).rejects.toMatchObject(
      refused(/redis-server is Redis 6\.2\.14, as-one needs Redis >= 7\.0/),
    )
    executable(bin, 'valkey-server', `[ "$1" != --version ] || { echo "Server v=7.1.9"; exit; }`)
    await expect(start({ env })).rejects.toMatchObject(refused(/redis-server is Redis 6\.2\.14/))
    const real = redisBinary()
    executable(
      bin,
      'valkey-server',
      `[ "$1" != --version ] || { echo "Valkey server v=8.0.1 sha=0"; exit; }\nexec ${real} "$@"`,
    )
    const redis = await start({ env })
    expect(await withClient(redis, (client) => client.ping())).toBe('PONG')
  })

  test('no wrapper that becomes the server, though for a moment nothing says that it will', async () => {
    const bin = tempDir()
    const version = `[ "$1" != --version ] || { echo "Redis server v=7.2.5"; exit; }`
    const become = `CONFIG=$1 exec /bin/sh -c '/bin/sleep 0.05; exec ${redisBinary()} "$CONFIG"'`
    executable(bin, 'redis-server', `${version}\n${become}`)
    const redis = await start({ env: { PATH: bin, HOME: tempDir() } })
    expect(await withClient(redis, (client) => client.ping())).toBe('PONG')
  })

  test('a program that is not the server after all: it is ended, its words are told', async () => {
    const bin = tempDir()
    const version = `[ "$1" != --version ] || { echo "Redis server v=7.2.5"; exit; }`
    executable(bin, 'redis-server', `${version}\necho 'another thing'; exec /bin/sleep 60`)
    await expect(start({ env: { PATH: bin, HOME: tempDir() } })).rejects.toMatchObject(
      refused(/redis-server was ended by SIGKILL while starting, its last words in .*another thing/s),
    )
  })

  test('AS_ONE_REDIS_SERVER that is no server', async () => {
    const env = (path: string) => ({ PATH: process.env.PATH ?? '', AS_ONE_REDIS_SERVER: path })
    await expect(start({ env: env('/nowhere/redis') })).rejects.toMatchObject(
      refused(/AS_ONE_REDIS_SERVER is "\/nowhere\/redis"/),
    )
    await expect(start({ env: env('true') })).rejects.toMatchObject(
      refused(/true is neither Redis nor Valkey/),
    )
    await expect(start({ env: env('false') })).rejects.toMatchObject(refused(/false --version failed/))
  })

  test('a directory that others may write, a symbolic link, a file', async () => {
    const stateHome = tempDir()
    const redis = await start({ stateHome })
    const { dir } = redis
    await redis.stop()
    for (const path of [dir, dirname(dir)]) {
      chmodSync(path, 0o770)
      await expect(start({ stateHome })).rejects.toMatchObject(
        refused(/may be written by others \(mode 0770, expected 0700\)/),
      )
      chmodSync(path, 0o700)
    }
    rmSync(dir, { recursive: true })
    mkdirSync(join(stateHome, 'elsewhere'))
    symlinkSync(join(stateHome, 'elsewhere'), dir)
    await expect(start({ stateHome })).rejects.toMatchObject(refused(/is a symbolic link/))
    rmSync(dir)
    writeFileSync(dir, '')
    await expect(start({ stateHome })).rejects.toMatchObject(refused(/cannot create .*XDG_STATE_HOME/))
  })

  test.runIf(process.getuid?.() === 0)('a directory of somebody else', async () => {
    const stateHome = tempDir()
    const redis = await start({ stateHome })
    await redis.stop()
    chownSync(redis.dir, 65534, 65534)
    await expect(start({ stateHome })).rejects.toMatchObject(
      refused(/belongs to user id 65534, this process runs as 0/),
    )
  })

  test('a path too long for a socket, with its length', async () => {
    const stateHome = join(tempDir(), 'x'.repeat(80))
    await expect(start({ stateHome })).rejects.toMatchObject(
      refused(/redis\.sock is 1\d\d bytes long, a unix socket takes 100: set XDG_STATE_HOME/),
    )
    expect(existsSync(stateHome)).toBe(false)
  })

  test('no home, or one that cannot be written', async () => {
    const PATH = process.env.PATH ?? ''
    const withEnv = (env: NodeJS.ProcessEnv) =>
      startLocalRedis({ name: 'app', cwd: '/srv/app', env: { PATH, ...env } })
    await expect(withEnv({})).rejects.toMatchObject(refused(/neither XDG_STATE_HOME nor HOME is set/))
    await expect(withEnv({ XDG_STATE_HOME: 'state' })).rejects.toMatchObject(
      refused(/XDG_STATE_HOME must be an absolute path, got "state"/),
    )
    await expect(withEnv({ HOME: '/proc' })).rejects.toMatchObject(
      refused(/cannot create \/proc\/\.local.*XDG_STATE_HOME/),
    )
  })

  test('a socket that a server it cannot see answers on', async () => {
    const stateHome = tempDir()
    const redis = await start({ stateHome })
    await redis.stop()
    const other = spawn(
      redisBinary() as string,
      ['--port', '0', '--unixsocket', redis.socketPath, '--save', ''],
      {
        cwd: redis.dir,
        stdio: 'ignore',
      },
    )
    try {
      await until(() => existsSync(redis.socketPath), { what: 'the other server' })
      await withClient(redis, (client) => client.ping()) // the socket is there before it is listened on
      await expect(start({ stateHome })).rejects.toMatchObject(
        refused(/answered by a server that this process cannot see/),
      )
      expect(guardiansOf(redis.dir)).toEqual([])
    } finally {
      other.kill('SIGKILL')
    }
  })

  describe.runIf(process.getuid?.() === 0 && process.platform === 'linux')('a full disk', () => {
    const pages = 40
    function smallDisk(context: TestContext): string {
      const dir = tempDir()
      try {
        execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${pages * 4}k,mode=700`, 'tmpfs', dir], {
          stdio: 'ignore',
        })
      } catch {
        context.skip('may not mount a file system here')
      }
      onTestFinished(() => void execFileSync('umount', ['-l', dir]))
      return dir
    }
    const fill = (dir: string, leave: number): void =>
      writeFileSync(join(dir, 'ballast'), Buffer.alloc((pages - leave) * 4096))

    test('at the start, with the reason', async (context) => {
      for (const leave of [0, 1, 2]) {
        const stateHome = smallDisk(context)
        fill(stateHome, leave)
        await expect(start({ stateHome }), `${leave} pages left`).rejects.toMatchObject(
          refused(/no space left on device|disk full/i),
        )
        expect(processesOf(stateHome)).toEqual([])
      }
    })

    test('later: the last user stops the server all the same, and so does the guardian', async (context) => {
      const stateHome = smallDisk(context)
      const redis = await start({ stateHome })
      expect(() => fill(stateHome, 0)).toThrow(/ENOSPC/)
      await redis.stop()
      expect(processesOf(stateHome)).toEqual([])

      rmSync(join(stateHome, 'ballast'))
      const one = await user(stateHome, 100)
      await one.ask('start')
      expect(() => fill(stateHome, 0)).toThrow(/ENOSPC/)
      one.process.kill('SIGKILL')
      await nothingLeft(stateHome)
    })
  })
})
