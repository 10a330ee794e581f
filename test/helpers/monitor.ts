import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { track } from './cleanup.ts'

export interface Monitor {
  /** What clients have sent so far, scripts' own calls excepted: the command's name and its arguments. */
  readonly sent: readonly { name: string; line: string }[]
}

/** MONITOR over a plain socket: ioredis' own takes a line that comes with the OK for an answer. */
export async function monitor(port: number): Promise<Monitor> {
  const socket = connect(port, '127.0.0.1')
  track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
  socket.write('MONITOR\r\n')
  const lines = createInterface({ input: socket })
  const [answer] = await once(lines, 'line')
  if (answer !== '+OK') throw new Error(`MONITOR was answered with ${answer}`)
  const sent: { name: string; line: string }[] = []
  lines.on('line', (line: string) => {
    const [, source, name] = /^\+[\d.]+ \[\d+ (\S+)\] "([^"]*)"/.exec(line) ?? []
    if (name !== undefined && source !== 'lua') sent.push({ name: name.toLowerCase(), line })
  })
  return { sent }
}
