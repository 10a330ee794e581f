/** Where an app's lines go in the background, and how they are written. */
export interface LogPlan {
  /** Paths may hold `{index}`, which makes one file per worker. */
  readonly out: string
  readonly error: string
  readonly format: LineFormat
}

export interface LineFormat {
  /** One JSON object per line. */
  readonly json: boolean
  /** `[name:index]` before each line. Files that a configuration names are written as PM2 writes them, without. */
  readonly prefix: boolean
  /** As moment.js has it. */
  readonly date?: string | undefined
}

export type Stream = 'stdout' | 'stderr'

export function formatLine(
  line: string,
  from: { name: string; index: number | string; stream: Stream },
  { json, prefix, date }: LineFormat,
  now: Date = new Date(),
): string {
  if (json) {
    const timestamp = date === undefined ? now.toISOString() : formatDate(now, date)
    return JSON.stringify({
      timestamp,
      app: from.name,
      worker: from.index,
      stream: from.stream,
      message: line,
    })
  }
  const stamp = date === undefined ? '' : `${formatDate(now, date)}: `
  return `${prefix ? `[${from.name}:${from.index}] ` : ''}${stamp}${line}`
}

const two = (n: number): string => String(n).padStart(2, '0')

/** The usual ones of moment.js, which PM2 formats with; text in square brackets stands for itself. */
export function formatDate(at: Date, format: string): string {
  const offset = -at.getTimezoneOffset()
  const zone = (separator: string): string =>
    `${offset < 0 ? '-' : '+'}${two(Math.floor(Math.abs(offset) / 60))}${separator}${two(Math.abs(offset) % 60)}`
  const parts: Readonly<Record<string, () => string>> = {
    YYYY: () => String(at.getFullYear()),
    YY: () => two(at.getFullYear() % 100),
    MM: () => two(at.getMonth() + 1),
    M: () => String(at.getMonth() + 1),
    DD: () => two(at.getDate()),
    D: () => String(at.getDate()),
    HH: () => two(at.getHours()),
    H: () => String(at.getHours()),
    hh: () => two(at.getHours() % 12 || 12),
    mm: () => two(at.getMinutes()),
    ss: () => two(at.getSeconds()),
    SSS: () => String(at.getMilliseconds()).padStart(3, '0'),
    A: () => (at.getHours() < 12 ? 'AM' : 'PM'),
    a: () => (at.getHours() < 12 ? 'am' : 'pm'),
    ZZ: () => zone(''),
    Z: () => zone(':'),
    X: () => String(Math.floor(at.getTime() / 1_000)),
    x: () => String(at.getTime()),
  }
  return format.replace(
    /\[([^\]]*)\]|YYYY|YY|MM|M|DD|D|HH|H|hh|mm|ss|SSS|A|a|ZZ|Z|X|x/g,
    (token, literal: string | undefined) => literal ?? (parts[token] as () => string)(),
  )
}
