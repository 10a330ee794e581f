import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { removeStaleSocket } from '../../src/cluster/stale-socket.ts'
import { tempDir, track } from '../helpers/cleanup.ts'
import { runNode } from '../helpers/fork.ts'
import { until } from '../helpers/until.ts'

test('the socket of a killed process is removed', async () => {
  const dir = tempDir()
  const path = join(dir, 'app.sock')
  const script = join(dir, 'listen.cjs')
  writeFileSync(script, 'require("node:net").createServer().listen(process.argv[2])')
  const listener = runNode(script, { args: [path] })
  await until(() => existsSync(path), { what: 'the socket file' })
  await removeStaleSocket(path)
  expect(existsSync(path)).toBe(true)
  listener.kill('SIGKILL')
  await listener.exit
  expect(existsSync(path)).toBe(true)
  await removeStaleSocket(path)
  expect(existsSync(path)).toBe(false)
})

test('one that somebody listens on stays, and so does a file', async () => {
  const dir = tempDir()
  const path = join(dir, 'app.sock')
  const server = createServer().listen(path)
  track({ [Symbol.asyncDispose]: async () => void server.close() })
  await once(server, 'listening')
  await removeStaleSocket(path)
  expect(existsSync(path)).toBe(true)
  const file = join(dir, 'file')
  writeFileSync(file, '')
  await removeStaleSocket(file)
  expect(existsSync(file)).toBe(true)
  await removeStaleSocket(join(dir, 'missing'))
})
