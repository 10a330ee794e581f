const UNIT_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}
const SIZE_BYTES: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1_024,
  mb: 1_048_576,
  gb: 1_073_741_824,
}

/** Milliseconds as a number, or a number with a unit: `'250ms' | '5s' | '1m' | '2h' | '7d'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`

/** Bytes as a number, or a number with a unit (powers of 1,024): `'512b' | '64kb' | '512mb' | '2gb'`. */
export type ByteSize = number | `${number}${'b' | 'kb' | 'mb' | 'gb'}`

/** Milliseconds of `value`, or undefined when it is no duration of 0 ms or more. */
export function durationMs(value: unknown): number | undefined {
  return scaled(value, UNIT_MS, /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/)
}

/** Bytes of `value`, or undefined when it is no size of 0 bytes or more. */
export function byteSize(value: unknown): number | undefined {
  return scaled(value, SIZE_BYTES, /^(\d+(?:\.\d+)?)(b|kb|mb|gb)$/)
}

function scaled(value: unknown, units: Readonly<Record<string, number>>, form: RegExp): number | undefined {
  const exact =
    typeof value === 'number' ? value : typeof value === 'string' ? parsed(value, units, form) : -1
  const whole = Math.round(exact) // Redis takes no fractions
  return exact >= 0 && Number.isSafeInteger(whole) ? whole : undefined
}

function parsed(text: string, units: Readonly<Record<string, number>>, form: RegExp): number {
  const match = form.exec(text.trim().toLowerCase())
  return match ? Number(match[1]) * (units[match[2] as string] as number) : Number.NaN
}
