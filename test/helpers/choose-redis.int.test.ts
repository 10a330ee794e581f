import { afterEach, expect, test, vi } from 'vitest'
import { chooseRedis } from './choose-redis.ts'
import { freePort, isAlive, pidsOf } from './fork.ts'
import { startRedis } from './redis.ts'

/** Fails alike without Docker and with it. */
const noImage = 'as-one.invalid/no-such-image:0'
const noBinary = () => vi.stubEnv('REDIS_SERVER', '/nonexistent/redis-server')

afterEach(() => {
  vi.unstubAllEnvs()
})

test('auto takes REDIS_URL when there is one', async () => {
  const own = await startRedis()
  const chosen = await chooseRedis({ REDIS_URL: own.url })
  expect(chosen).toMatchObject({ kind: 'url', url: own.url, version: expect.stringMatching(/^\d|^valkey/) })
  await chosen.close()
  expect(own.running).toBe(true)
})

test('a unix socket is a URL too', async () => {
  const own = await startRedis({ socket: true })
  expect(await chooseRedis({ REDIS_URL: own.url })).toMatchObject({ kind: 'url', url: own.url })
})

test('auto fails rather than replace a REDIS_URL that does not answer', async () => {
  const url = `redis://127.0.0.1:${await freePort()}`
  await expect(chooseRedis({ REDIS_URL: url })).rejects.toThrow(
    /^no Redis for the tests\n {2}url: .*ECONNREFUSED/,
  )
})

test('auto starts a server of its own where no container can be had', async () => {
  const chosen = await chooseRedis({ REDIS_IMAGE: noImage })
  expect(chosen.kind).toBe('binary')
  const port = new URL(chosen.url).port
  const [pid] = pidsOf(new RegExp(`127\\.0\\.0\\.1:${port}\\b`))
  expect(isAlive(pid!)).toBe(true)
  await chosen.close()
  expect(isAlive(pid!)).toBe(false)
})

test('auto without anything fails with every reason', async () => {
  noBinary()
  await expect(chooseRedis({ REDIS_IMAGE: noImage })).rejects.toThrow(
    /docker: .+\n {2}binary: REDIS_SERVER=\/nonexistent\/redis-server is no executable/,
  )
})

test('a forced kind never falls back', async () => {
  await expect(chooseRedis({ AS_ONE_TEST_REDIS: 'url' })).rejects.toThrow(/\n {2}url: REDIS_URL is not set$/)
  await expect(chooseRedis({ AS_ONE_TEST_REDIS: 'docker', REDIS_IMAGE: noImage })).rejects.toThrow(
    /\n {2}docker: .+$/,
  )
  noBinary()
  const own = await startUnstubbed()
  await expect(chooseRedis({ AS_ONE_TEST_REDIS: 'binary', REDIS_URL: own.url })).rejects.toThrow(
    /\n {2}binary: .+$/,
  )
})

test('a forced binary ignores REDIS_URL', async () => {
  const chosen = await chooseRedis({ AS_ONE_TEST_REDIS: 'binary', REDIS_URL: 'redis://127.0.0.1:1' })
  expect(chosen.kind).toBe('binary')
  await chosen.close()
})

test('an unknown kind is named', async () => {
  await expect(chooseRedis({ AS_ONE_TEST_REDIS: 'dokcer' })).rejects.toThrow(
    'AS_ONE_TEST_REDIS=dokcer is none of',
  )
})

async function startUnstubbed() {
  vi.unstubAllEnvs()
  const own = await startRedis()
  noBinary()
  return own
}
