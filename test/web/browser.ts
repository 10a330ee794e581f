import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { expect } from 'vitest'
import { tempDir, track } from '../helpers/cleanup.ts'
import { until } from '../helpers/until.ts'
import { chromiumPath } from './chromium.ts'

export const phone: BrowserContextOptions = {
  viewport: { width: 360, height: 780 },
  deviceScaleFactor: 2,
  isMobile: true,
  hasTouch: true,
}

/** One browser for a file; closed at its end. */
export async function startBrowser(): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: chromiumPath,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
  track({ [Symbol.asyncDispose]: () => browser.close() })
  return browser
}

export interface Visit {
  readonly page: Page
  /** What a developer would see in red, refused requests aside: exceptions, CSP violations. */
  readonly complaints: readonly string[]
  /** Requests to any other place than the page's own. */
  readonly foreign: readonly string[]
  text(selector: string): Promise<string>
  /** Waits until the element's text matches. */
  sees(selector: string, what: RegExp, deadline?: number): Promise<RegExpMatchArray>
  /** All values the session counter has shown, in order. */
  counts(): Promise<number[]>
  /** What each failed dot says, those aside whose request the browser dropped because the machine's network changed. */
  failures(): Promise<string[]>
}

/** Runs in the page. */
const recordCounts = `
  const count = document.querySelector('#count')
  globalThis.seenCounts = []
  new MutationObserver(() => seenCounts.push(Number(count.textContent.replaceAll(',', '')))).observe(count, { childList: true })
`

/** A visitor of his own, with the page open and its first requests answered. */
export async function visit(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<Visit> {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options })
  track({ [Symbol.asyncDispose]: () => context.close() })
  const page = await context.newPage()
  const complaints: string[] = []
  const foreign: string[] = []
  let networkChanges = 0
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) {
      complaints.push(message.text())
    }
  })
  page.on('request', (request) => {
    if (!request.url().startsWith(url)) foreign.push(request.url())
  })
  // A container that is started beside us gives the machine another address, and Chromium then drops what it has begun.
  page.on('requestfailed', (request) => {
    if (request.failure()?.errorText !== 'net::ERR_NETWORK_CHANGED') return
    if (/\/api\/(session|value)$/.test(request.url()) && request.method() === 'GET') networkChanges++
  })
  await page.goto(url)
  await page.evaluate(recordCounts)
  const self: Visit = {
    page,
    complaints,
    foreign,
    text: async (selector) =>
      ((await page.locator(selector).textContent()) ?? '').replace(/\s+/g, ' ').trim(),
    async sees(selector, what, deadline = 10_000) {
      return until(
        async () => {
          const text = await self.text(selector)
          const found = text.match(what)
          if (found) return found
          throw new Error(`it says: ${text}`)
        },
        { what: `${what} in ${selector}`, deadline, every: 50 },
      )
    },
    counts: () => page.evaluate<number[]>('seenCounts'),
    async failures() {
      const said = await page.evaluate<string[]>(
        "[...document.querySelectorAll('#failures i')].map((dot) => dot.title)",
      )
      let excused = networkChanges
      return said.filter((what) => what !== 'Failed to fetch' || excused-- <= 0)
    },
  }
  await self.sees('#count', /^\d+$/, 30_000) // several pages may begin at once
  return self
}

/** Each value higher than the one before it. */
export function expectRising(counts: readonly number[]): void {
  expect(counts.length).toBeGreaterThan(0)
  expect(counts).toEqual([...new Set(counts)].sort((a, b) => a - b))
}

/** AS_ONE_SCREENSHOTS keeps the pictures; else they go with the test. */
export function pictures(): (name: string) => string {
  const dir = process.env.AS_ONE_SCREENSHOTS ?? tempDir()
  mkdirSync(dir, { recursive: true })
  return (name) => join(dir, `${name}.png`)
}
