import { once } from 'node:events'
import { createServer, ServerResponse } from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { expect, test, vi } from 'vitest'
import { trackConnections } from '../../src/cluster/connections.ts'
import { drain } from '../../src/cluster/drain.ts'
import { responsesInFlight } from '../../src/cluster/response-in-flight.ts'
import { track } from '../helpers/cleanup.ts'
import { get, keepAliveAgent } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'

/** As a Node that keeps the response anywhere else. */
function whileUnknown<Value>(make: () => Value): Value {
  const assign = vi.spyOn(ServerResponse.prototype, 'assignSocket').mockImplementation(() => {})
  try {
    return make()
  } finally {
    assign.mockRestore()
  }
}

const nodes = [
  { node: 'this Node', tracked: trackConnections },
  { node: 'a Node that is not known', tracked: () => whileUnknown(trackConnections) },
]

test('this Node is known', () => {
  expect(responsesInFlight().begun).toBe(undefined)
  expect(whileUnknown(responsesInFlight).begun).toBeDefined()
})

test.for(nodes)(
  '$node: what is in flight is told from what is idle, before and during a drain',
  async ({ tracked }) => {
    const connections = tracked()
    track({ [Symbol.asyncDispose]: async () => connections.untrack() })
    const waiting: ServerResponse[] = []
    const server = createServer((req, res) => {
      if (req.url === '/wait') waiting.push(res)
      else res.end('ok')
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    track({ [Symbol.asyncDispose]: async () => void server.close() })
    const { port } = server.address() as AddressInfo
    const url = `http://127.0.0.1:${port}`

    const agent = keepAliveAgent()
    await get(`${url}/`, { agent })
    expect(connections.counts()).toEqual({ requests: 1, inFlight: 0, connections: 1 })
    const waited = get(`${url}/wait`, { agent })
    await until(() => waiting.length === 1, { what: 'the request' })
    expect(connections.counts()).toEqual({ requests: 2, inFlight: 1, connections: 1 })

    // The first of two requests in one packet has promised to keep the connection, the other one has said nothing yet.
    const client = net.connect(port, '127.0.0.1').setEncoding('utf8')
    let text = ''
    client.on('data', (chunk: unknown) => {
      text += chunk
    })
    const closed = once(client, 'close')
    client.write('GET /wait HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(2))
    await until(() => waiting.length === 3, { what: 'both requests' })
    waiting[1]?.writeHead(200, { 'content-length': 3 }).write('o')

    const draining = drain(connections, { delayMs: 0, lingerMs: 50, timeoutMs: 10_000 }, [])
    await new Promise((resolve) => setTimeout(resolve, 200)) // past the linger
    expect(connections.counts()).toEqual({ requests: 4, inFlight: 2, connections: 2 })
    waiting[1]?.end('ne')
    await until(() => text.endsWith('one'), { what: 'the first of the two' })
    waiting[2]?.end('two')
    waiting[0]?.end('alone')
    const reply = await waited
    expect([reply.body, reply.headers.connection]).toEqual(['alone', 'close'])
    await closed
    expect(text).toMatch(/one.*connection: close.*two/is)
    expect(await draining).toBe(0)
    expect(connections.counts()).toEqual({ requests: 4, inFlight: 0, connections: 0 })
  },
)
