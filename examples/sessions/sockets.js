// WebSockets that close when their session ends, on whichever worker it does: node examples/sessions/sockets.js
import { createServer } from 'node:http'
import { runCluster, sharedSession } from 'as-one'
import express from 'express'
import { WebSocketServer } from 'ws'

const app = express()
const sessions = sharedSession({ secret: process.env.SESSION_SECRET ?? 'only for this example' })
app.use(sessions)
app.post('/login/:user', async (req, res) => {
  await sessions.login(req, req.params.user)
  res.json({ pid: process.pid })
})
app.post('/logout', (req, res, next) => {
  req.session.destroy((error) => (error ? next(error) : res.json({ pid: process.pid })))
})

const server = createServer(app)
const wss = new WebSocketServer({ noServer: true })
server.on('upgrade', async (req, socket, head) => {
  const session = await sessions.fromRequest(req).catch(() => undefined) // Redis is away: nobody is let in
  if (!session?.userId) return socket.end('HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n')
  wss.handleUpgrade(req, socket, head, (ws) => {
    session.signal.addEventListener('abort', () => ws.close(4401))
    if (session.signal.aborted) ws.close(4401)
    ws.send(JSON.stringify({ pid: process.pid, user: session.userId }))
  })
})

const cluster = await runCluster(server)
if (cluster.role === 'primary') console.log(`http://localhost:${process.env.PORT ?? 3000}`)
