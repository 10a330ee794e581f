// Has nothing to do once Redis runs, so it shall end by itself.
import { startLocalRedis } from '../../build/redis/local-redis.js'

const redis = await startLocalRedis({ name: 'app', cwd: '/srv/app', graceMs: 200 })
console.log(`redis ${redis.pid()}`)
