import { readdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { runNode } from '../helpers/fork.ts'

const suites = readdirSync(new URL('suites/', import.meta.url)).map((file) => file.replace(/\.mjs$/, ''))

/** Every contender that is installed answers rightly. Nothing is measured: no figure can fail this. */
test('every suite runs', async () => {
  const bench = runNode(new URL('main.mjs', import.meta.url), { args: ['--smoke'] })
  const exit = await bench.exit
  expect(exit, bench.stderr()).toEqual({ code: 0, signal: null })
  for (const suite of suites) expect(bench.stderr()).toMatch(new RegExp(`^ok: ${suite}, .*: as-one`, 'm'))
})
