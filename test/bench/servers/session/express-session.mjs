import { RedisStore } from 'connect-redis'
import expressSession from 'express-session'
import { Redis } from 'ioredis'
import { redisOptions } from '../redis-options.mjs'
import { appWith, SECRET } from './app.mjs'

const store = new RedisStore({ client: new Redis(redisOptions) })

export default appWith(expressSession({ store, secret: SECRET, resave: false, saveUninitialized: false }))
