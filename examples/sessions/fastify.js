// Sessions in Fastify: node examples/sessions/fastify.js
import { runCluster, sharedSession } from 'as-one'
import Fastify from 'fastify'

const fastify = Fastify()
const sessions = sharedSession({ secret: process.env.SESSION_SECRET ?? 'only for this example' })
const user = { id: 'ada' }

await fastify.register(sessions.fastify)
fastify.get('/', async (request) => {
  const session = sessions.of(request.raw) // request.session, with its types
  session.views = (session.views ?? 0) + 1
  return { pid: process.pid, views: session.views }
})
fastify.post('/login/:user', async (request, reply) => {
  await sessions.login(request.raw, user.id)
  return reply.redirect('/', 303)
})
fastify.get('/me', async (request) => ({ user: sessions.userId(request.raw), same: request.session.views }))

const cluster = await runCluster(fastify)
if (cluster.role === 'primary') console.log(`http://localhost:${process.env.PORT ?? 3000}`)
