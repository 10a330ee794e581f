/**
 * What this process is. A primary's copies of the app's receivers do nothing, a worker's live;
 * `alone` is every process that our primary has not started: plain node, PM2, systemd, a test.
 */
export type Role = 'alone' | 'primary' | 'worker'

let role: Role = 'alone'
const listeners = new Set<() => void>()

export function processRole(): Role {
  return role
}

/** Called by `cluster/` when the process learns what it is. */
export function setProcessRole(next: Role): void {
  if (role === next) return
  role = next
  for (const listener of listeners) listener()
}

/** Returns the function that ends it. */
export function onRoleChange(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}
