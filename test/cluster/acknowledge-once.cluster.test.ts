import { expect, test } from 'vitest'
import { runNode } from '../helpers/fork.ts'
import { fixture } from './start-cluster.ts'

test.each([
  ['plain', 220],
  ['ours', 1 + 20], // one and the same object for all of round robin's, and those of the app's own sockets
  ['late', 220], // where the second answer does not follow at once, the first goes by itself
])('%s: of 200 connections and 20 sockets of the app, arrivals told: %i', async (how, arrivals) => {
  const script = runNode(fixture('acknowledgements.mjs'), { args: [how] })
  expect(await script.exit).toEqual({ code: 0, signal: null })
  expect(JSON.parse(script.stdout())).toEqual({ answered: 220, wrong: 0, arrivals })
})
