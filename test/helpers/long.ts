/** True in the runs that may take minutes: `AS_ONE_LONG=1`. */
export const isLong: boolean = process.env.AS_ONE_LONG === '1'

/** The everyday figure, or the one the guarantee is stated with: `long(10, 200)` worker replacements. */
export function long<T>(small: T, large: T): T {
  return isLong ? large : small
}
