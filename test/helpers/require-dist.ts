import { existsSync } from 'node:fs'

/** Forked fixtures import the built package by its own name, so these tests mean nothing without it. */
export default function requireDist(): void {
  if (existsSync(new URL('../../dist/index.js', import.meta.url))) return
  const error = new Error('dist/index.js is missing: run `npm run build` before the cluster tests')
  delete error.stack
  throw error
}
