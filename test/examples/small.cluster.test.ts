import { beforeAll, describe, expect, test } from 'vitest'
import { CookieJar, get, request } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'
import { startExample } from './example.ts'

interface Seen {
  pid: number
  worker: number
}

describe('examples/http', () => {
  test('every worker answers', async () => {
    const { url } = await startExample('http/server.js', { workers: 2 })
    const pids = new Set<number>()
    for (let i = 0; i < 8; i++) pids.add((await get(url)).json<Seen>().pid)
    expect(pids.size).toBe(2)
  })
})

describe('examples/sessions', () => {
  interface Page extends Seen {
    views: number
    name?: string
  }

  test('one counter over all workers, kept at login and gone at logout', async () => {
    const { url } = await startExample('sessions/server.js', { workers: 2 })
    const jar = new CookieJar()
    const view = async (): Promise<Page> => (await get(url, { jar })).json<Page>()
    const pids = new Set<number>()
    for (let views = 1; views <= 20; views++) {
      const page = await view()
      expect(page.views).toBe(views)
      pids.add(page.pid)
    }
    expect(pids.size).toBe(2)

    const before = jar.get('sid')
    const headers = { 'content-type': 'application/x-www-form-urlencoded' }
    expect((await request(`${url}/login`, { jar, body: 'name=Ada', headers })).status).toBe(303)
    expect(jar.get('sid')).not.toBe(before)
    expect(await view()).toMatchObject({ views: 21, name: 'Ada' })

    expect((await request(`${url}/logout`, { jar, method: 'POST' })).status).toBe(303)
    const after = await view()
    expect(after.views).toBe(1)
    expect(after.name).toBeUndefined()
  })

  test('with nothing configured it brings its own Redis, and takes it along', async () => {
    const { url, process, line } = await startExample('sessions/server.js', { workers: 2, redis: undefined })
    expect(line).toContain('managed local Redis')
    const jar = new CookieJar()
    await get(url, { jar })
    expect((await get(url, { jar })).json<Page>().views).toBe(2)
    process.kill('SIGTERM')
    expect(await process.exit).toMatchObject({ code: 0 })
    await until(() => process.tree().length === 0, { what: 'nothing to be left running' })
  })
})

describe('examples/bus', () => {
  interface Heard extends Seen {
    workers: number
    heard: { text: string }[]
  }

  let url: string
  beforeAll(async () => {
    url = (await startExample('bus/server.js', { workers: 3 })).url
  })

  test('what one worker says, every worker hears once', async () => {
    const texts = Array.from({ length: 9 }, (_, i) => `message ${i}`)
    for (const text of texts) await request(`${url}/say?text=${encodeURIComponent(text)}`, { method: 'POST' })
    const heard = new Map<number, Heard>()
    await until(
      async () => {
        const seen = (await get(url)).json<Heard>()
        heard.set(seen.pid, seen)
        return heard.size === 3 && [...heard.values()].every((each) => each.heard.length >= texts.length)
      },
      { what: 'three workers to have heard all' },
    )
    for (const each of heard.values()) {
      expect(each.workers).toBe(3)
      expect(each.heard.map(({ text }) => text).sort()).toEqual(texts)
    }
  })

  test('orders are a log with one order for every worker, and every worker is asked for its stats', async () => {
    const items = Array.from({ length: 6 }, (_, i) => `tea ${i}`)
    for (const item of items) {
      const reply = await request(`${url}/order?item=${encodeURIComponent(item)}`, { method: 'POST' })
      expect(reply.json<{ remote: string }>().remote).toBe('sent')
    }
    interface Stats {
      results: { pid: number; orders: number; missed: unknown[] }[]
      missing: unknown[]
    }
    let stats: Stats | undefined
    await until(
      async () => {
        stats = (await get(`${url}/stats`)).json<Stats>()
        return (
          stats.missing.length === 0 &&
          stats.results.length === 3 &&
          stats.results.every(({ orders }) => orders >= items.length)
        )
      },
      { what: 'every worker to have all orders' },
    )
    expect(stats!.results.map(({ missed }) => missed)).toEqual([[], [], []])
    for (let i = 0; i < 4; i++) {
      const { orders } = (await get(`${url}/orders`)).json<{ orders: { item: string }[] }>()
      expect(orders.map(({ item }) => item)).toEqual(items)
    }
  })
})
