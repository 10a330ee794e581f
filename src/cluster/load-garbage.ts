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
  // The only way to V8's "low on memory", which also shrinks the heap, that needs no flag of the process.
  await new Promise<void>((resolve) => session.post('HeapProfiler.collectGarbage', () => resolve()))
  session.disconnect()
}
