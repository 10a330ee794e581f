import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { appName } from '../../src/core/app-name.ts'
import { isNamespace } from '../../src/core/keys.ts'
import { tempDir } from '../helpers/cleanup.ts'

function appWith(manifest: string): string {
  const dir = tempDir()
  writeFileSync(join(dir, 'package.json'), manifest)
  mkdirSync(join(dir, 'src/deep'), { recursive: true })
  return join(dir, 'src/deep/server.js')
}

test.each([
  ['shop', 'shop'],
  ['@acme/shop', 'acme-shop'],
  ['my shop!', 'my-shop-'],
  ['x'.repeat(100), 'x'.repeat(48)],
])('%j becomes %j, which is a namespace', (name, expected) => {
  const found = appName(appWith(JSON.stringify({ name })))
  expect(found).toBe(expected)
  expect(isNamespace(found)).toBe(true)
})

test.each(['', 'no json', 'null', '[]', '{}', '{"name":5}', '{"name":""}', '{"name":"@"}'])(
  'a package.json of %j does no harm',
  (manifest) => {
    expect(isNamespace(appName(appWith(manifest)))).toBe(true)
  },
)
