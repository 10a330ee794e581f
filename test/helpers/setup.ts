import { afterAll } from 'vitest'
import { disposeTracked } from './cleanup.ts'

// A killed run takes its test workers with it; what they started follows them (see guard.ts).
const followParent = (): never => process.exit(1)
// A project without isolation runs this file again for each of its test files.
if (!process.listeners('disconnect').some(({ name }) => name === followParent.name))
  process.once('disconnect', followParent)

// Registered first, so it runs last: after the file's own afterAll.
afterAll(disposeTracked)
