// Answers like http/hello.mjs while worker 0 sends every other worker RATE messages a second, the way BENCH_BUS says.
import { broadcast, subscribe } from 'as-one'

const RATE = 15_000
const TEXT = 'x'.repeat(88)

const ways = {
  'as-one': {
    listen: (handler) => subscribe('bench.load', handler),
    send: (message) => broadcast('bench.load', message),
  },
  'process.send': {
    listen: (handler) => process.on('message', (message) => message?.load && handler(message.load)),
    send: (message) => process.send({ load: message }),
  },
}
const way = ways[process.env.BENCH_BUS]
const worker = Number(process.env.AS_ONE_WORKER)
let heard = 0

if (way && worker > 0) {
  way.listen(({ n }) => {
    if (n !== heard++) throw new Error(`message ${n} came as number ${heard}`)
  })
}
if (way && worker === 0) {
  // The others have to listen first: the benchmark asks each of them before it measures.
  const startedAt = performance.now() + 2_000
  let n = 0
  setInterval(() => {
    for (const due = ((performance.now() - startedAt) / 1_000) * RATE; n < due; n++)
      way.send({ n, text: TEXT })
  }, 2)
}

export default function app(req, res) {
  const body = JSON.stringify(req.url === '/heard' ? { worker, heard } : { hello: 'world' })
  res.setHeader('content-type', 'application/json')
  res.setHeader('content-length', body.length)
  res.end(body)
}
