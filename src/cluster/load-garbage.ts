import { executionAsyncResource } from 'node:async_hooks'

/**
 * What the loading of modules leaves behind: 10 MB of the 70 of a primary that has just started. It has so little to do
 * from then on that V8 would keep them. Resolves when they are back with the system; takes some 50 ms of this
 * process, so it belongs where nobody waits for it.
 */
export async function returnLoadGarbage(): Promise<void> {
  const inspector = await import('node:inspector').catch(() => undefined) // a Node built without one keeps them
  if (!inspector) return
  const session = new inspector.Session()
  session.connect()
  // Of a shape that no living object has V8 forgets what it had learnt, and the code that makes such objects stays slow
  // from then on: `nextTick`, which each connection that is handed out calls several times.
  const tick = await new Promise<object>((resolve) =>
    process.nextTick(() => resolve({ kept: executionAsyncResource() })),
  )
  // The only way to V8's "low on memory", which also shrinks the heap, that needs no flag of the process.
  await new Promise<object>((resolve) => session.post('HeapProfiler.collectGarbage', () => resolve(tick)))
  session.disconnect()
}
