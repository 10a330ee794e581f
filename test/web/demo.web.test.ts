import { statSync } from 'node:fs'
import type { Browser } from 'playwright-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { type Example, startExample } from '../examples/example.ts'
import { startRedis } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { expectRising, phone, pictures, startBrowser, type Visit, visit } from './browser.ts'

const WORKERS = 4
let browser: Browser
beforeAll(async () => {
  browser = await startBrowser()
})

/** The pid of each row, top down. */
async function pidsOn({ page }: Visit): Promise<number[]> {
  const labels = await page.locator('.row .who small').allTextContents()
  return labels.map((label) => Number(/pid (\d+)/.exec(label)?.[1]))
}

async function allWorkersAnswer(visitor: Visit): Promise<void> {
  const lanes = visitor.page.locator('#rows .row')
  await until(
    async () => {
      if ((await lanes.count()) !== WORKERS) return false
      const dots = await Promise.all((await lanes.all()).map((lane) => lane.locator('i').count()))
      return dots.every((count) => count > 0)
    },
    { what: 'dots in the row of every worker', deadline: 30_000 },
  )
}

describe('a visitor', () => {
  let demo: Example
  let visitor: Visit
  beforeAll(async () => {
    demo = await startExample('demo/server.js', { workers: WORKERS, env: { DEMO_PER: '1h' } })
    visitor = await visit(browser, demo.url)
  })

  test('sees every worker answer, one session, and nothing from elsewhere', async () => {
    await allWorkersAnswer(visitor)
    await visitor.sees('#redis', /4 workers on 1 machine\. Redis answers\./)
    await visitor.sees('#session-said', /Counted by [2-4] processes.* never gone back/)
    expect(await visitor.failures()).toEqual([])
    expect(visitor.complaints).toEqual([])
    expect(visitor.foreign).toEqual([])
  })

  test('spends the budget: admitted by several workers until it is used up, then refused', async () => {
    const { page } = visitor
    await page.click('#spend-1')
    await visitor.sees('#budget-said', /^1 admitted by/)
    await visitor.sees('#left', /^[1-4]?\d$/) // what the page had asked before may still come in between
    await page.click('#spend-20')
    await visitor.sees('#budget-said', /^20 admitted by .*\d\D*\d/)
    // How many exactly, the test of the demo without a browser says: here a busy machine may make the limiter decide alone.
    for (let clicks = 0; clicks < 4; clicks++) await page.click('#spend-20')
    await visitor.sees('#budget-said', /20 refused with 429/)
    await visitor.sees('#left', /^0$/)
  })

  test('writes and invalidates the value: every worker holds the new one', async () => {
    const { page } = visitor
    const runs = async (): Promise<number> =>
      Number((await visitor.sees('#value-said', /has run (\d+) time/))[1])
    const before = await runs()
    const heldByAll = (): Promise<boolean> =>
      until(async () => (await page.locator('#seen .mark:not(.not)').count()) === WORKERS, {
        what: 'every worker to hold the value',
        deadline: 30_000,
      })
    await page.fill('#write-text', 'forty-two')
    await page.click('#write button[type=submit]')
    await visitor.sees('#cache-said', /Written through/)
    await visitor.sees('#value', /^forty-two$/)
    await heldByAll()
    await page.click('#invalidate')
    await visitor.sees('#cache-said', /Invalidated through/)
    await visitor.sees('#value', /^\d\d:\d\d:\d\d$/)
    await heldByAll()
    expect(await runs()).toBe(before + 1)
  })

  test('broadcasts: every worker hears it once', async () => {
    const { page } = visitor
    await page.fill('#say-text', 'price changed')
    await page.click('#say button')
    const entry = page.locator('#feed li', { hasText: 'price changed' })
    await until(async () => (await entry.locator('.heard .mark').count()) === WORKERS, {
      what: 'all to have heard it',
    })
    expect(await entry.textContent()).not.toContain('times')
  })

  test('kills workers, one after the other: no failed dot, the counter never goes back', async () => {
    const { page } = visitor
    for (let round = 0; round < 6; round++) {
      const before = await pidsOn(visitor)
      if (round % 2 === 0) await page.click('#kill')
      else
        await page
          .locator('#rows .row button')
          .nth(round % WORKERS)
          .click()
      const [successor] = await until(
        async () => {
          const now = await pidsOn(visitor)
          const fresh = now.filter((pid) => pid > 0 && !before.includes(pid))
          if (now.length === WORKERS && fresh.length === 1) return fresh
          throw new Error(`rows ${now}, said: ${await visitor.text('#workers-said')}`)
        },
        { what: `one worker to be replaced in round ${round}`, deadline: 20_000 },
      )
      await visitor.sees('#workers-said', new RegExp(`is back as pid ${successor}, .* \\d+ failed\\.$`))
    }
    await allWorkersAnswer(visitor)
    expect(await visitor.failures()).toEqual([])
    expectRising(await visitor.counts())
    await visitor.sees('#session-said', /never gone back/)
  })

  test('reloads all: new processes, no failed dot, the counter never goes back', async () => {
    const { page } = visitor
    const before = await pidsOn(visitor)
    await page.click('#reload')
    await visitor.sees('#workers-said', /All 4 workers are new, .* \d+ failed\.$/, 60_000)
    const after = await until(
      async () => {
        const now = await pidsOn(visitor)
        return now.every(Boolean) && now
      },
      { what: 'all rows to have a pid' },
    )
    expect(after.filter((pid) => before.includes(pid))).toEqual([])
    await allWorkersAnswer(visitor)
    expect(await visitor.failures()).toEqual([])
    expectRising(await visitor.counts())
    expect(visitor.complaints).toEqual([])
  })
})

test('all of it by keyboard, and one sees where one is', async () => {
  const { url } = await startExample('demo/server.js', { workers: 2 })
  const visitor = await visit(browser, url)
  const { page } = visitor
  await until(async () => (await page.locator('#rows .row').count()) === 2, { what: 'both rows' })
  const focused = (): Promise<{ name: string; outline: string }> =>
    page.evaluate(`(() => {
      const element = document.activeElement
      const name = element.getAttribute('aria-label') ?? (element.id || element.textContent)
      return { name, outline: getComputedStyle(element).outlineStyle }
    })()`)
  const reached: string[] = []
  const goTo = async (wanted: string): Promise<void> => {
    for (let presses = 0; presses < 20; presses++) {
      await page.keyboard.press('Tab')
      const { name, outline } = await focused()
      expect(outline, name).toBe('solid')
      reached.push(name)
      if (name === wanted) return
    }
    throw new Error(`${wanted} is not reached: ${reached.join(', ')}`)
  }

  await goTo('spend-1')
  await page.keyboard.press('Enter')
  await visitor.sees('#budget-said', /^1 admitted by/)
  await goTo('write-text')
  await page.keyboard.type('by keyboard')
  await page.keyboard.press('Enter')
  await visitor.sees('#value', /^by keyboard$/)
  await goTo('invalidate')
  await page.keyboard.press('Space')
  await visitor.sees('#value', /^\d\d:\d\d:\d\d$/)
  await goTo('say-text')
  await page.keyboard.type('hello from the keyboard')
  await page.keyboard.press('Enter')
  await visitor.sees('#feed', /hello from the keyboard/)
  expect(reached.filter((name) => name.startsWith('Kill worker'))).toHaveLength(2)
  await page.focus('#kill')
  await page.keyboard.press('Enter')
  await visitor.sees('#workers-said', /is back as pid \d+/, 20_000)
  expect(await visitor.failures()).toEqual([])
})

test('Redis dies: the page says so, and recovers by itself with the session where it was', async () => {
  const picture = pictures()
  const redis = await startRedis({ persist: true })
  const { url } = await startExample('demo/server.js', { workers: WORKERS, redis: redis.url })
  const visitor = await visit(browser, url)
  const { page } = visitor
  await allWorkersAnswer(visitor)
  // Written to its append-only file, which a slow disk may delay.
  await until(async () => /^aof_buffer_length:0\r?$/m.test(await redis.client().info('persistence')), {
    what: 'its last writes to be in its file',
  })
  await redis.kill()
  await visitor.sees('#redis', /Redis is away/)
  await visitor.sees('#session-said', /^503\..*goes on from \d+/)
  const highest = Number(await visitor.text('#count'))
  await page.click('#invalidate')
  await visitor.sees('#cache-said', /^Not done/)
  await until(async () => (await visitor.failures()).length > 3, {
    what: 'failed dots to be shown',
  })
  await page.screenshot({ path: picture('redis-away'), fullPage: true })
  await redis.restart()
  const [, count] = await visitor.sees('#redis', /Redis is back after .* goes on at ([\d,]+)/, 30_000)
  expect(Number(count)).toBeGreaterThan(highest)
  expectRising(await visitor.counts())
  await visitor.sees('#redis', /Redis answers/, 30_000)
  expect(visitor.complaints).toEqual([])
})

test('pictures: desktop, dark, phone; nothing is wider than the phone', async () => {
  const picture = pictures()
  const { url } = await startExample('demo/server.js', { workers: WORKERS })
  const looks = {
    light: {},
    dark: { colorScheme: 'dark' as const },
    phone,
    'phone-dark': { ...phone, colorScheme: 'dark' as const },
  }
  const visitors = await Promise.all(
    Object.entries(looks).map(async ([name, look]) => ({ name, ...(await visit(browser, url, look)) })),
  )
  for (const { page } of visitors) {
    await page.fill('#say-text', 'price of no. 7 has changed')
    await page.click('#say button')
    await page.click('#spend-1')
  }
  await visitors[0]?.page.fill('#write-text', '12.50 €')
  await visitors[0]?.page.click('#write button[type=submit]')
  await new Promise((resolve) => setTimeout(resolve, Number(process.env.AS_ONE_PICTURE_MS ?? 2_000)))
  for (const { name, page } of visitors) {
    const overflow = await page.evaluate('document.documentElement.scrollWidth - innerWidth')
    expect(overflow, name).toBeLessThanOrEqual(0)
    await page.screenshot({ path: picture(name), fullPage: true })
    expect(statSync(picture(name)).size).toBeGreaterThan(10_000)
  }
})
