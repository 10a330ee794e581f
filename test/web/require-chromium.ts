import { chromiumPath, hasChromium } from './chromium.ts'

/** The browser is the system's own: nothing is downloaded. */
export default function requireChromium(): void {
  if (hasChromium()) return
  const error = new Error(
    `no browser at ${chromiumPath}: install the package chromium (apt-get install chromium), or name one in CHROMIUM`,
  )
  delete error.stack
  throw error
}
