import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { killAll, processesIn } from './processes.ts'

const untilEndOfFile: AsyncDisposable[] = []

/**
 * Disposes of the resource when the running test ends, however it ends; opened outside a test (in `beforeAll`,
 * at the top of a file) it lives until the end of the file. Disposing twice must do no harm.
 */
export function track<T extends AsyncDisposable>(resource: T): T {
  try {
    onTestFinished(() => resource[Symbol.asyncDispose]())
  } catch {
    untilEndOfFile.push(resource)
  }
  return resource
}

/** Closes in reverse order of opening what was tracked outside a test. */
export async function disposeTracked(): Promise<void> {
  const failures: unknown[] = []
  for (let resource = untilEndOfFile.pop(); resource; resource = untilEndOfFile.pop()) {
    try {
      await resource[Symbol.asyncDispose]()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw new AggregateError(failures, 'tracked resources did not close')
}

/** A short path, since unix sockets go into it. Gone at the end, with every process that still lives in it. */
export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'as-one-'))
  track({
    async [Symbol.asyncDispose]() {
      await killAll(() => processesIn(dir))
      await rm(dir, { recursive: true, force: true })
    },
  })
  return dir
}
