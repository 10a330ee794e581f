import { afterAll } from 'vitest'
import { disposeTracked } from './cleanup.ts'

// A killed run takes its test workers with it; what they started follows them (see guard.ts).
process.once('disconnect', () => process.exit(1))

// Registered first, so it runs last: after the file's own afterAll.
afterAll(disposeTracked)
