import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Redis } from 'ioredis'
import { freePort } from './ports.mjs'
import { start } from './processes.mjs'

const QUIET_MS = 1_000

/** A Redis of one contender's own, without persistence, on TCP and on a unix socket. */
export async function startRedis() {
  const dir = mkdtempSync(join(tmpdir(), 'bench-'))
  const port = await freePort()
  const socket = join(dir, 'redis.sock')
  const own = [
    '--port',
    String(port),
    '--bind',
    '127.0.0.1',
    '--dir',
    dir,
    '--save',
    '',
    '--appendonly',
    'no',
  ]
  const server = start('redis-server', [...own, '--unixsocket', socket])
  await server.waitFor(/Ready to accept connections/)
  const client = new Redis(port)
  client.on('error', () => {}) // commands reject
  return {
    pid: server.pid,
    client,
    tcp: `redis://127.0.0.1:${port}`,
    unix: `unix://${socket}`,
    /** Its own count of CPU time (µs) and of bytes. */
    async counters() {
      const info = await client.info('everything')
      const field = (name) => Number(new RegExp(`^${name}:(.*?)\r?$`, 'm').exec(info)?.[1])
      return {
        cpuUs: (field('used_cpu_user') + field('used_cpu_sys')) * 1e6,
        bytesIn: field('total_net_input_bytes'),
        bytesOut: field('total_net_output_bytes'),
        memoryMb: field('used_memory') / 2 ** 20,
      }
    },
    /**
     * The commands that clients sent for each of `count` operations, by name; what scripts call is not among them. What
     * is sent without any operation, by heartbeats, is told apart, per second.
     */
    async commandsPer(count, work, quietMs = QUIET_MS) {
      const quiet = await sentDuring(port, () => new Promise((resolve) => setTimeout(resolve, quietMs)))
      const busy = await sentDuring(port, work)
      const each = [...busy.sent]
        .map(([name, times]) => [name, (times - ((quiet.sent.get(name) ?? 0) * busy.ms) / quiet.ms) / count])
        .filter(([, times]) => times >= 0.005)
        .sort((a, b) => b[1] - a[1])
      return {
        sent: each.reduce((sum, [, times]) => sum + times, 0),
        commands: each,
        background: ([...quiet.sent.values()].reduce((sum, times) => sum + times, 0) / quiet.ms) * 1e3,
      }
    },
    async stop() {
      client.disconnect()
      await server.stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** Over a plain socket: ioredis' own MONITOR connection takes a line that comes with the OK for an answer. */
async function sentDuring(port, work) {
  const socket = connect(port, '127.0.0.1')
  try {
    socket.write('MONITOR\r\n')
    const sent = new Map()
    const lines = createInterface({ input: socket })
    const [answer] = await once(lines, 'line')
    if (answer !== '+OK') throw new Error(`MONITOR was answered with ${answer}`)
    lines.on('line', (line) => {
      const [, source, command] = /^\+[\d.]+ \[\d+ (\S+)\] "([^"]*)"/.exec(line) ?? []
      if (command === undefined || source === 'lua') return
      const name = command.toLowerCase()
      sent.set(name, (sent.get(name) ?? 0) + 1)
    })
    const startedAt = performance.now()
    await work()
    const ms = performance.now() - startedAt
    await new Promise((resolve) => setTimeout(resolve, 50)) // what is still on its way here
    return { sent, ms }
  } finally {
    socket.destroy()
  }
}

export async function redisVersion() {
  const server = start('redis-server', ['--version'])
  await server.exit
  return /v=(\S+)/.exec(server.output())?.[1]
}
