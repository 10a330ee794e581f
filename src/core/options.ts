import { byteSize, durationMs } from './duration.ts'
import { SharedStateError } from './errors.ts'

/** Names that neighbours use for an option of ours, mapped to ours: `{ instances: 'workers' }`. */
export type Neighbours = Readonly<Record<string, string>>

/**
 * Reads a caller's options object once, never writes to it, and collects every mistake, so that
 * `done()` can report all of them together before anything has started.
 */
export class OptionReader {
  readonly #path: string
  readonly #given: Readonly<Record<string, unknown>>
  readonly #neighbours: Neighbours
  readonly #known = new Set<string>()
  readonly #mistakes: string[]

  constructor(path: string, given: unknown, neighbours: Neighbours = {}, mistakes: string[] = []) {
    this.#path = path
    this.#neighbours = neighbours
    this.#mistakes = mistakes
    if (given === undefined || (typeof given === 'object' && given !== null && !Array.isArray(given))) {
      this.#given = (given ?? {}) as Record<string, unknown>
    } else {
      this.#given = {}
      this.mistake('', `must be an object, got ${show(given)}`)
    }
  }

  /** Adds a mistake of the caller's own finding. */
  mistake(name: string, what: string): void {
    this.#mistakes.push(`${name === '' ? this.#path : this.#label(name)} ${what}`)
  }

  /** The raw value, undefined when absent. */
  raw(name: string): unknown {
    this.#known.add(name)
    return Object.hasOwn(this.#given, name) ? this.#given[name] : undefined
  }

  string<D extends string | undefined>(name: string, fallback: D, form?: RegExp, advice = ''): string | D {
    return this.#read(name, fallback, `a string${advice}`, (value) =>
      typeof value === 'string' && value !== '' && (form === undefined || form.test(value))
        ? value
        : undefined,
    )
  }

  boolean<D extends boolean | undefined>(name: string, fallback: D): boolean | D {
    return this.#read(name, fallback, 'true or false', (value) =>
      typeof value === 'boolean' ? value : undefined,
    )
  }

  integer<D extends number | undefined>(name: string, fallback: D, min: number, max: number): number | D {
    return this.#read(name, fallback, `a whole number from ${min} to ${max}`, (value) =>
      Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
        ? (value as number)
        : undefined,
    )
  }

  /** Milliseconds. */
  duration<D extends number | undefined>(name: string, fallback: D, min = 0): number | D {
    const least = min > 0 ? `, at least ${min} ms` : ''
    return this.#read(name, fallback, `a duration such as 250, '5s' or '1m'${least}`, (value) => {
      const ms = durationMs(value)
      return ms !== undefined && ms >= min ? ms : undefined
    })
  }

  /** Bytes. */
  size<D extends number | undefined>(name: string, fallback: D): number | D {
    return this.#read(name, fallback, "a size such as 65536, '64kb' or '512mb'", byteSize)
  }

  oneOf<T extends string, D extends T | undefined>(name: string, fallback: D, allowed: readonly T[]): T | D {
    return this.#read(name, fallback, `one of ${allowed.map((item) => `'${item}'`).join(', ')}`, (value) =>
      allowed.includes(value as T) ? (value as T) : undefined,
    )
  }

  fn<F>(name: string): F | undefined {
    return this.#read<F, undefined>(name, undefined, 'a function', (value) =>
      typeof value === 'function' ? (value as F) : undefined,
    )
  }

  /** A nested options object, whose mistakes are reported with ours. */
  nested(name: string, neighbours?: Neighbours): OptionReader {
    return new OptionReader(this.#label(name), this.raw(name), neighbours, this.#mistakes)
  }

  /** Notes every option that nobody asked for; call it after the last read. */
  close(): void {
    for (const name of Object.keys(this.#given)) {
      if (this.#known.has(name)) continue
      const ours = Object.hasOwn(this.#neighbours, name)
        ? this.#neighbours[name]
        : nearest(name, [...this.#known])
      this.mistake(
        name,
        ours === undefined
          ? `is not an option; known: ${[...this.#known].join(', ')}`
          : `is not an option; did you mean ${ours}?`,
      )
    }
  }

  /** Throws one error that names all mistakes of this reader and of those nested in it. */
  done(): void {
    this.close()
    if (this.#mistakes.length > 0) throw new SharedStateError('ERR_AS_ONE_OPTIONS', this.#mistakes.join('; '))
  }

  #label(name: string): string {
    return `${this.#path}${this.#path.includes(':') ? '.' : ': '}${name}`
  }

  #read<T, D>(name: string, fallback: D, wanted: string, accept: (value: unknown) => T | undefined): T | D {
    const value = this.raw(name)
    if (value === undefined) return fallback
    const accepted = accept(value)
    if (accepted !== undefined) return accepted
    this.mistake(name, `must be ${wanted}, got ${show(value)}`)
    return fallback
  }
}

/** A value as it can stand in an error line: short, on one line. */
export function show(value: unknown): string {
  if (typeof value === 'string') {
    const short = value.length > 60 ? `${value.slice(0, 57)}...` : value
    return `'${short.replace(/\p{Cc}/gu, controlEscape)}'`
  }
  if (typeof value === 'function') return `a function${value.name ? ` (${value.name})` : ''}`
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
}

function controlEscape(char: string): string {
  return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** The known name closest to a mistyped one, if it is close enough to be meant. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[b.length] as number
}
