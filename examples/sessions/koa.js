// Sessions in Koa: node examples/sessions/koa.js
import { runCluster, sharedSession } from 'as-one'
import Koa from 'koa'

const koa = new Koa()
const sessions = sharedSession({ secret: process.env.SESSION_SECRET ?? 'only for this example' })

koa.use(sessions.koa)
koa.use(async (ctx, next) => {
  const session = sessions.of(ctx.req) // ctx.session, with its types
  session.views = (session.views ?? 0) + 1
  await next()
})
koa.use(async (ctx) => {
  if (ctx.path === '/login') {
    await sessions.login(ctx.req, 'ada')
    ctx.redirect('/')
    return
  }
  const { views } = ctx.session
  ctx.body = { pid: process.pid, views, user: sessions.userId(ctx.req) }
})

const cluster = await runCluster(koa)
if (cluster.role === 'primary') console.log(`http://localhost:${process.env.PORT ?? 3000}`)
