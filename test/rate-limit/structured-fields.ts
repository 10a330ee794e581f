/** A list of RFC 9651 with strings, tokens and integers as items: what the RateLimit drafts use. Throws on anything else. */
export interface Item {
  value: string | number
  params: Record<string, string | number>
}

export function parseList(text: string): Item[] {
  let at = 0
  const fail = (): never => {
    throw new Error(`no structured field at ${at}: ${text}`)
  }
  const take = (form: RegExp): string | undefined => {
    form.lastIndex = at
    const match = form.exec(text)
    if (match) at += match[0].length
    return match?.[0]
  }
  const bareItem = (): string | number => {
    const string = take(/"(?:[ !#-[\]-~]|\\["\\])*"/y)
    if (string !== undefined) return string.slice(1, -1).replace(/\\(.)/g, '$1')
    const integer = take(/-?\d{1,15}(?![\d.])/y)
    if (integer !== undefined) return Number(integer)
    return take(/[A-Za-z*][!#$%&'*+\-.^_`|~:/0-9A-Za-z]*/y) ?? fail()
  }
  const item = (): Item => {
    const parsed: Item = { value: bareItem(), params: {} }
    while (take(/;/y)) {
      take(/ */y)
      const name = take(/[a-z*][a-z0-9_\-.*]*/y) ?? fail()
      parsed.params[name] = take(/=/y) ? bareItem() : 1
    }
    return parsed
  }
  const items = [item()]
  while (at < text.length) {
    if (!take(/[ \t]*,[ \t]*/y)) fail()
    items.push(item())
  }
  return items
}
