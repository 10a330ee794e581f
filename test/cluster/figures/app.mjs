// What replacements.mjs replaces, and nothing in it helps: a plain server, listening by itself.
import { createServer } from 'node:http'
import { createRequire } from 'node:module'

const { WebSocketServer } = createRequire(import.meta.url)('ws')

const app = (req, res) => {
  if (req.url === '/events') {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write('data: 1\n\n')
    const timer = setInterval(() => res.write('data: again\n\n'), 100)
    res.once('close', () => clearInterval(timer))
    return
  }
  let bytes = 0
  req.on('data', (chunk) => {
    bytes += chunk.length
  })
  req.on('end', () => setTimeout(() => res.end(String(bytes)), 20))
}

export const serve = () => {
  const server = createServer(app)
  const echo = (socket) => socket.on('message', (data) => socket.send(String(data)))
  new WebSocketServer({ server }).on('connection', echo)
  return server
}

export const listen = (port) => serve().listen(port, '127.0.0.1')
