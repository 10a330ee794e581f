import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { until } from './fork.ts'
import { CookieJar, get, keepAliveAgent, request, steadyLoad } from './http.ts'

let server: Server
let url: string
let sockets = 0

beforeEach(async () => {
  sockets = 0
  server = createServer(async (req, res) => {
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk as Buffer)
    const { searchParams } = new URL(req.url!, 'http://localhost')
    res.statusCode = Number(searchParams.get('status') ?? 200)
    if (searchParams.has('hang')) return
    for (const cookie of searchParams.getAll('cookie')) res.appendHeader('set-cookie', cookie)
    res.end(
      JSON.stringify({
        method: req.method,
        cookie: req.headers.cookie,
        sent: Buffer.concat(chunks).toString(),
      }),
    )
  })
  server.on('connection', () => sockets++)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})

afterEach(() => {
  server.close()
  server.closeAllConnections()
})

test('a jar carries cookies from reply to request and drops what has expired', async () => {
  const jar = new CookieJar()
  await get(`${url}/?cookie=a%3D1%3B+Path%3D/&cookie=b%3D2%3D2`, { jar })
  expect((await get(url, { jar })).json()).toMatchObject({ cookie: 'a=1; b=2=2' })
  await get(`${url}/?cookie=a%3D%3B+Max-Age%3D0&cookie=b%3D%3B+Expires%3DThu,+01+Jan+1970+00:00:00+GMT`, {
    jar,
  })
  expect(jar.header()).toBeUndefined()
})

test('bodies: a string, an object as JSON', async () => {
  expect((await request(url, { body: 'plain' })).json()).toMatchObject({ method: 'POST', sent: 'plain' })
  expect((await request(url, { method: 'PUT', body: { a: 1 } })).json()).toMatchObject({
    method: 'PUT',
    sent: '{"a":1}',
  })
})

test('fresh connections unless an agent keeps them', async () => {
  await get(url)
  await get(url)
  expect(sockets).toBe(2)
  const agent = keepAliveAgent()
  await get(url, { agent })
  await get(url, { agent })
  expect(sockets).toBe(3)
})

test('no reply is an error with its deadline, a bad status is a reply', async () => {
  await expect(get(`${url}/?hang`, { timeout: 50 })).rejects.toThrow('no complete reply')
  expect((await get(`${url}/?status=503`)).status).toBe(503)
})

test('steady load counts replies and reasons, and says nothing went wrong when nothing did', async () => {
  const load = steadyLoad({ url, clients: 3, keepAlive: true })
  await until(() => load.result.ok >= 30, { what: '30 replies' })
  expect(await load.stop()).toMatchObject({ failed: 0, reasons: {} })
  expect(sockets).toBe(3)

  const refused = steadyLoad({ url: `${url}/?status=503`, clients: 1 })
  await until(() => refused.result.failed > 0, { what: 'a failure' })
  expect(Object.keys((await refused.stop()).reasons)).toEqual(['status 503'])

  server.close()
  server.closeAllConnections()
  const nobody = steadyLoad({ url, clients: 1 })
  await until(() => nobody.result.failed > 0, { what: 'a failure' })
  expect(Object.keys((await nobody.stop()).reasons)).toEqual(['ECONNREFUSED'])
})
