/** ioredis options of `REDIS_URL`; it knows no `unix:` URL itself. */
const url = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'

export const redisOptions = url.startsWith('unix://')
  ? { path: url.slice('unix://'.length) }
  : { host: new URL(url).hostname, port: Number(new URL(url).port) }
