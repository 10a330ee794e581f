// What people assemble today, as the packages' own documentation shows it, on one connection and one for messages.
import { RedisStore } from 'connect-redis'
import expressSession from 'express-session'
import { Redis } from 'ioredis'
import { RateLimiterRedis } from 'rate-limiter-flexible'
import { peer } from '../../peers/load.mjs'
import { redisOptions } from '../redis-options.mjs'
import { appWith, LIMIT, loadProduct, SECRET, WINDOW_SECONDS } from './workload.mjs'

const { BentoCache, bentostore } = await peer('bentocache')
const { memoryDriver } = await peer('bentocache/drivers/memory')
const { redisBusDriver, redisDriver } = await peer('bentocache/drivers/redis')

const client = new Redis(redisOptions)
const limiter = new RateLimiterRedis({ storeClient: client, points: LIMIT, duration: WINDOW_SECONDS })
const cache = new BentoCache({
  default: 'main',
  ttl: '5m',
  stores: {
    main: bentostore()
      .useL1Layer(memoryDriver({ maxItems: 10_000 }))
      .useL2Layer(redisDriver({ connection: client }))
      .useBus(redisBusDriver({ connection: redisOptions })),
  },
})

const limit = (req, res, next) => {
  limiter.consume(req.ip).then(
    () => next(),
    (refused) => (refused instanceof Error ? next(refused) : res.status(429).end()),
  )
}
const session = expressSession({
  store: new RedisStore({ client }),
  secret: SECRET,
  resave: false,
  saveUninitialized: false,
})

export default appWith([limit, session], (id) =>
  cache.getOrSet({ key: `product:${id}`, factory: () => loadProduct(id) }),
)
