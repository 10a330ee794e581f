// The bus alone: what one worker says, every worker hears once, on every machine that uses the same Redis. Then:
//
//   node examples/bus/server.js
//   curl -X POST 'localhost:3000/say?text=hello'
//   curl localhost:3000                              a few times: each worker has heard it
//   curl -X POST 'localhost:3000/order?item=tea'
//   curl localhost:3000/orders                       the same orders in the same order, whichever worker answers
//   curl localhost:3000/stats                        asks every worker
import { createServer } from 'node:http'
import { createBus, gather, handle, onBus, runCluster } from 'as-one'

const me = { worker: Number(process.env.AS_ONE_WORKER), pid: process.pid }
const heard = []
const orders = []
const missed = []

// 'volatile' topics are as fast as can be; what does not arrive is reported. A log is kept in Redis and replayed.
const bus = createBus({ topics: { order: { delivery: 'log', maxLen: 1_000 } } })

// 'chat.*' would be every topic that begins with "chat." and has one more part. In the primary this does nothing.
bus.subscribe('chat', (text, { from, self }) => keep(heard, { text, from: self ? 'me' : from }))
const { ready } = bus.subscribe('order', (item, { sequence, from }) => keep(orders, { item, sequence, from }))

// Messages this worker will never get: whoever keeps copies of what they told has to read it again.
onBus('gap', ({ publisher, topic, from, to, count, cause }) =>
  keep(missed, { publisher, topic, from, to, count, cause }),
)

handle('stats', () => ({ ...me, heard: heard.length, orders: orders.length, missed }))

function keep(list, entry) {
  list.push(entry)
  if (list.length > 100) list.shift()
}

async function answer(req) {
  const { pathname, searchParams } = new URL(req.url ?? '/', 'http://localhost')
  switch (`${req.method} ${pathname}`) {
    case 'POST /say':
      bus.broadcast('chat', searchParams.get('text') ?? 'hello') // never waits, and never throws for want of Redis
      return me
    case 'POST /order': {
      // Tells whether Redis has it; while Redis is away it is 'queued', and sent in order afterwards.
      const { remote } = await bus.publish('order', searchParams.get('item') ?? 'tea')
      return { ...me, remote }
    }
    case 'GET /orders':
      return { ...me, orders }
    case 'GET /stats': {
      const { results, missing } = await gather('stats')
      return { results: results.map(({ value }) => value), missing } // missing: who has not answered, and why
    }
    default:
      return { ...me, workers: bus.members().length, heard }
  }
}

const server = createServer(async (req, res) => {
  res.setHeader('content-type', 'application/json')
  try {
    res.end(JSON.stringify(await answer(req)))
  } catch (error) {
    res.statusCode = 500
    res.end(JSON.stringify({ error: error.message }))
  }
})

// A log begins for a subscriber where it ends at that moment: no request comes before this worker hears every order.
const cluster = await runCluster(async () => {
  await ready
  return server
})

if (cluster.role === 'primary') {
  const { workers, redis } = cluster.status()
  console.log(`${workers.length} workers on http://localhost:${process.env.PORT ?? 3000}, Redis: ${redis}`)
}
