import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { onTestFinished } from 'vitest'
import type { Member } from '../../src/bus/index.ts'
import { tempDir } from '../helpers/cleanup.ts'
import { type NodeProcess, runNode } from '../helpers/fork.ts'
import { until } from '../helpers/until.ts'
import type { Account } from './ledger.ts'

export interface WorkerAccount extends Account {
  readonly sent: number
  readonly events: string[]
  readonly unhandled: string[]
  /** Longest way of a message, ms. */
  readonly slowest: number
}

/** A worker of the fixture and the line to it, which is neither the bus nor cluster IPC. */
export interface WorkerLink {
  readonly id: string
  readonly pid: number
  tell(command: string, options?: object): Promise<unknown>
  account(): Promise<WorkerAccount>
  members(): Promise<Member[]>
}

export interface Machine {
  readonly primary: NodeProcess
  readonly workers: WorkerLink[]
  /** Memory of the primary, bytes: what is alive, and the most that ever waited for one worker when it overflowed. */
  memory(): Promise<PrimaryMemory>
}

export interface PrimaryMemory {
  readonly heapUsed: number
  readonly arrayBuffers: number
  readonly mostQueued: number
}

/** A primary with workers, all of which hear `topic` from everywhere. */
export async function startMachine({
  redisUrl,
  namespace,
  workers,
  topic,
  options,
  script = new URL('fixtures/machine.mjs', import.meta.url),
}: {
  redisUrl: string
  namespace: string
  workers: number
  topic?: string
  options?: object
  script?: string | URL
}): Promise<Machine> {
  const control = join(tempDir(), 'control.sock')
  const links: WorkerLink[] = []
  const server = createServer((socket) => void greet(socket, links)).listen(control)
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const primary = runNode(script, {
    ipc: true,
    nodeArgs: ['--expose-gc'],
    env: {
      REDIS_URL: redisUrl,
      AS_ONE_NAMESPACE: namespace,
      WORKERS: `${workers}`,
      CONTROL: control,
      BUS_OPTIONS: JSON.stringify(options ?? {}),
    },
  })
  await until(() => links.length === workers, { what: `${workers} workers`, deadline: 30_000 })
  await Promise.all(links.map((link) => link.tell('ready', { topic })))
  const memory = async (): Promise<PrimaryMemory> => {
    const before = primary.messages.length
    const answer = (): { memory: PrimaryMemory } | undefined =>
      (primary.messages.slice(before) as { memory: PrimaryMemory }[]).find((message) => 'memory' in message)
    primary.send('memory')
    await until(() => answer() !== undefined, { what: 'the primary to tell its memory' })
    return answer()!.memory
  }
  return { primary, workers: links, memory }
}

async function greet(socket: Socket, links: WorkerLink[]): Promise<void> {
  const waiting = new Map<number, (answer: unknown) => void>()
  let asked = 0
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  const tell = (command: string, options: object = {}): Promise<unknown> => {
    asked += 1
    const ask = asked
    socket.write(`${JSON.stringify({ command, ask, ...options })}\n`)
    return new Promise((resolve) => waiting.set(ask, resolve))
  }
  try {
    for await (const line of createInterface({ input: socket })) {
      const { hello, ask, answer } = JSON.parse(line)
      if (hello)
        links.push({
          ...hello,
          tell,
          account: () => tell('account') as Promise<WorkerAccount>,
          members: () => tell('members') as Promise<Member[]>,
        })
      else waiting.get(ask)?.(answer)
    }
  } catch {
    // killed in the middle of a line, as tests do
  }
}
