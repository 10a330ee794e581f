import type { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { checkServerVersion, versionOf } from '../../src/redis/version.ts'

const serverSaying = (answer: string | Error): Redis =>
  ({ info: async () => (answer instanceof Error ? Promise.reject(answer) : answer) }) as unknown as Redis

test('Valkey also states the Redis version it is compatible with', () => {
  expect(versionOf('# Server\r\nredis_version:7.2.4\r\nos:Linux\r\n')).toEqual({
    server: 'redis',
    version: '7.2.4',
  })
  expect(versionOf('redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\n')).toEqual({
    server: 'valkey',
    version: '8.1.0',
  })
  expect(versionOf('# Server\r\n')).toBeUndefined()
})

test.each([
  'redis_version:7.0.0',
  'redis_version:7.0.15',
  'redis_version:8.0-rc1',
  'redis_version:10.1.0',
  'valkey_version:7.2.0',
  'valkey_version:8.0.1',
  'nothing',
])('%s will do', async (info) => {
  await checkServerVersion(serverSaying(info), 'h')
})

test.each([
  ['redis_version:6.2.14', 'redis 6.2.14 at h is too old'],
  ['redis_version:5.0.0', 'redis 5.0.0'],
  ['redis_version:7.2.4\r\nvalkey_version:7.1.9', 'valkey 7.1.9'],
])('%j is too old', async (info, words) => {
  await expect(checkServerVersion(serverSaying(info), 'h')).rejects.toMatchObject({
    code: 'ERR_AS_ONE_REDIS_VERSION',
    message: expect.stringContaining(words),
  })
})

test('who may not ask is not refused; other errors are passed on', async () => {
  await checkServerVersion(serverSaying(new Error('NOPERM this user has no permissions')), 'h')
  await expect(checkServerVersion(serverSaying(new Error('LOADING')), 'h')).rejects.toThrow('LOADING')
})
