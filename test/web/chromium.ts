import { accessSync, constants } from 'node:fs'

/** Debian's and Ubuntu's place; CHROMIUM names another browser of the family. */
export const chromiumPath: string = process.env.CHROMIUM || '/usr/bin/chromium'

export function hasChromium(): boolean {
  try {
    accessSync(chromiumPath, constants.X_OK)
    return true
  } catch {
    return false
  }
}
