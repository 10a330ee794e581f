import http from 'node:http'
import { expect, test } from 'vitest'
import { type HealthOptions, type HealthPort, openHealthPort } from '../../src/cluster/health.ts'
import { SharedStateError } from '../../src/core/errors.ts'
import { track } from '../helpers/cleanup.ts'

const TOKEN = 'a-token-of-sixteen-characters'

interface Opened extends HealthPort {
  ask(
    method: string,
    path: string,
    headers?: Record<string, string>,
  ): Promise<{ status: number; body: unknown }>
  readonly done: string[]
  ready: boolean
}

async function open(options: Partial<HealthOptions> = {}): Promise<Opened> {
  const done: string[] = []
  const opened = { ready: true, done } as Opened
  const port = await openHealthPort(
    { port: 0, host: '127.0.0.1', token: undefined, ...options },
    {
      isReady: () => opened.ready,
      status: () => ({ name: 'test' }),
      actions: {
        reload: () => void done.push('reload'),
        scale: (query) => {
          throw new SharedStateError('ERR_AS_ONE_OPTIONS', `not ${query.get('to')}`)
        },
      },
    },
  )
  track({ [Symbol.asyncDispose]: () => port.close() })
  const ask: Opened['ask'] = (method, path, headers = {}) =>
    new Promise((resolve, reject) => {
      const sent = http.request(
        { port: port.port, host: '127.0.0.1', method, path, headers, agent: false },
        (res) => {
          let text = ''
          res.on('data', (chunk) => {
            text += chunk
          })
          res.on('end', () => resolve({ status: res.statusCode ?? 0, body: JSON.parse(text) }))
        },
      )
      sent.once('error', reject)
      sent.end()
    })
  return Object.assign(opened, port, { ask })
}

test('live always, ready when it is', async () => {
  const health = await open()
  expect(await health.ask('GET', '/livez')).toEqual({ status: 200, body: { live: true } })
  expect(await health.ask('GET', '/readyz')).toEqual({ status: 200, body: { ready: true } })
  health.ready = false
  expect(await health.ask('GET', '/readyz')).toEqual({ status: 503, body: { ready: false } })
  expect((await health.ask('GET', '/livez')).status).toBe(200)
  expect((await health.ask('GET', '/nothing')).status).toBe(404)
  expect((await health.ask('DELETE', '/status')).status).toBe(405)
})

test('only under an address, localhost or its own name: not under one that a web page brings', async () => {
  const health = await open()
  for (const host of ['127.0.0.1:1', 'localhost', 'localhost:80', '[::1]:9000', '10.1.2.3:8080'])
    expect((await health.ask('GET', '/status', { host })).status, host).toBe(200)
  for (const host of ['evil.example', 'localhost.evil.example:9000', '127.0.0.1.nip.io'])
    expect((await health.ask('GET', '/status', { host })).status, host).toBe(403)
  const named = await open({ host: 'localhost' })
  expect((await named.ask('GET', '/livez', { host: 'localhost:1' })).status).toBe(200)
})

test('actions need POST and the token', async () => {
  const without = await open()
  expect((await without.ask('POST', '/reload')).status).toBe(403)
  const health = await open({ token: TOKEN })
  const bearer = { authorization: `Bearer ${TOKEN}` }
  expect((await health.ask('GET', '/reload', bearer)).status).toBe(404)
  for (const headers of [
    {},
    { authorization: 'Bearer wrong' },
    { authorization: TOKEN },
    { authorization: `Basic ${TOKEN}` },
  ])
    expect((await health.ask('POST', '/reload', headers)).status).toBe(401)
  expect(health.done).toEqual([])
  expect(await health.ask('POST', '/reload', bearer)).toEqual({ status: 200, body: { done: 'reload' } })
  expect(health.done).toEqual(['reload'])
  expect(await health.ask('POST', '/scale?to=0', bearer)).toEqual({
    status: 409,
    body: { error: 'not 0', code: 'ERR_AS_ONE_OPTIONS' },
  })
  for (const path of ['/constructor', '/__proto__', '/', '/toString'])
    expect((await health.ask('POST', path, bearer)).status, path).toBe(404)
})

test('on a host that others reach the status needs the token, the two probes do not', async () => {
  const health = await open({ host: '0.0.0.0', token: TOKEN })
  expect((await health.ask('GET', '/livez')).status).toBe(200)
  expect((await health.ask('GET', '/readyz')).status).toBe(200)
  expect((await health.ask('GET', '/status')).status).toBe(401)
  expect((await health.ask('GET', '/status', { authorization: `Bearer ${TOKEN}` })).status).toBe(200)
})

test('a port that is taken is named', async () => {
  const { port } = await open()
  await expect(open({ port })).rejects.toMatchObject({
    code: 'ERR_AS_ONE_PORT',
    message: expect.stringContaining(`health.port ${port} on 127.0.0.1`),
  })
})
