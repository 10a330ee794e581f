/** JSON.parse that leaves out `__proto__` keys, however they are spelled; the scan is cheap, the walk is rare. */
export function parseSafely(text: string): unknown {
  const value: unknown = JSON.parse(text)
  // Most texts have neither, which takes no regular expression to find out.
  if (!text.includes('__proto__') && !text.includes('\\u00')) return value
  // An escape of any of its letters; JSON.stringify writes none, so only a foreign writer makes us walk.
  return /__proto__|\\u00[567]/i.test(text) ? withoutProto(value) : value
}

function withoutProto(root: unknown): unknown {
  const pending: unknown[] = [root] // a loop, since whoever can write to Redis chooses the depth
  for (let value = pending.pop(); value !== undefined; value = pending.pop()) {
    if (typeof value !== 'object' || value === null) continue
    if (Object.hasOwn(value, '__proto__')) Reflect.deleteProperty(value, '__proto__')
    for (const child of Object.values(value))
      if (typeof child === 'object' && child !== null) pending.push(child)
  }
  return root
}
