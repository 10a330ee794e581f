/** A line on stderr: what is not the answer itself. */
export function say(line: string): void {
  process.stderr.write(`as-one: ${line}\n`)
}

export const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`
