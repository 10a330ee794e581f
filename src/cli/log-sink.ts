import { StringDecoder } from 'node:string_decoder'
import type { OnOutput } from '../cluster/index.ts'
import { type LogFile, openLogFile } from './log-file.ts'
import { formatLine, type LogPlan, type Stream } from './log-plan.ts'

/** An unfinished line is written when it gets longer than this. */
const MAX_LINE = 64 << 10

/** Takes what workers write, and does something with each line. */
export interface LogSink {
  readonly onOutput: OnOutput
  reopen(): void
  /** Also writes lines without an end. */
  close(): void
}

/** Into files, as the plan has it. @throws SharedStateError when one of them cannot be opened */
export function fileSink(name: string, plan: LogPlan): LogSink {
  const files = new Map<string, LogFile>()
  const fileAt = (path: string): LogFile => {
    let file = files.get(path)
    if (!file) {
      file = openLogFile(path)
      files.set(path, file)
    }
    return file
  }
  for (const path of [plan.out, plan.error]) if (!path.includes('{index}')) fileAt(path)
  const sink = lineSink((line, index, stream) => {
    const path = (stream === 'stdout' ? plan.out : plan.error).replace('{index}', String(index))
    fileAt(path).append(formatLine(line, { name, index, stream }, plan.format))
  })
  return {
    ...sink,
    reopen() {
      for (const file of files.values()) file.reopen()
    },
    close() {
      sink.close()
      for (const file of files.values()) file.close()
    },
  }
}

/** To stdout and stderr of this process. */
export function printSink(name: string, format: LogPlan['format']): LogSink {
  return lineSink((line, index, stream) => {
    const out = stream === 'stdout' ? process.stdout : process.stderr
    out.write(`${formatLine(line, { name, index, stream }, format)}\n`)
  })
}

function lineSink(onLine: (line: string, index: number, stream: Stream) => void): LogSink {
  const rests = new Map<string, { decoder: StringDecoder; text: string; index: number; stream: Stream }>()
  return {
    onOutput(index, stream, chunk) {
      const key = `${index} ${stream}`
      const rest = rests.get(key) ?? { decoder: new StringDecoder('utf8'), text: '', index, stream }
      rests.set(key, rest)
      const lines = (rest.text + rest.decoder.write(chunk)).split('\n')
      rest.text = lines.pop() ?? ''
      for (const line of lines) onLine(line.endsWith('\r') ? line.slice(0, -1) : line, index, stream)
      if (rest.text.length > MAX_LINE) {
        onLine(rest.text, index, stream)
        rest.text = ''
      }
    },
    reopen() {},
    close() {
      for (const { text, index, stream } of rests.values()) if (text !== '') onLine(text, index, stream)
      rests.clear()
    },
  }
}
