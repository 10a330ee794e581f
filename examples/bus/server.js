// The bus alone: what one worker says, every worker hears once, on every machine that uses the same Redis. Then:
//
//   node examples/bus/server.js
//   curl -X POST 'localhost:3000/say?text=hello'
//   curl localhost:3000                          a few times: each worker has heard it
import { createServer } from 'node:http'
import { broadcast, members, runCluster, subscribe } from 'as-one'

const me = { worker: Number(process.env.AS_ONE_WORKER), pid: process.pid }
const heard = []

// 'chat.*' would be every topic that begins with "chat." and has one more part. In the primary this does nothing.
subscribe('chat', (text, { from, self }) => {
  heard.push({ text, from: self ? 'me' : from })
  if (heard.length > 100) heard.shift()
})

const server = createServer((req, res) => {
  const { pathname, searchParams } = new URL(req.url ?? '/', 'http://localhost')
  res.setHeader('content-type', 'application/json')
  if (req.method === 'POST' && pathname === '/say') {
    broadcast('chat', searchParams.get('text') ?? 'hello') // no await: it never waits, and never throws for want of Redis
    res.end(JSON.stringify(me))
  } else {
    res.end(JSON.stringify({ ...me, workers: members().length, heard }))
  }
})

const cluster = await runCluster(server)

if (cluster.role === 'primary') {
  const { workers, redis } = cluster.status()
  console.log(`${workers.length} workers on http://localhost:${process.env.PORT ?? 3000}, Redis: ${redis}`)
}
