/**
 * One form of the path for everything: what is matched is what is authorised is what is forwarded, so that no spelling
 * opens a door that another closed. RFC 3986 §6.2.2: unreserved %XX decoded, hex digits in capitals, dot segments
 * resolved, empty segments merged. Spellings that servers read differently are refused: %2f, %5c, %00, a backslash, `.;`
 * and `..;` segments, broken escapes.
 */

const UNRESERVED = /[A-Za-z0-9\-._~]/
const ESCAPE = /^[0-9A-Fa-f]{2}$/
/** Dot segments with a parameter; some servers drop the parameter and go up. */
const DOTS_WITH_PARAMETER = /^\.\.?(?:;|%3B)/
/** Dot segments behind an escaped slash, where those are kept: whoever decodes the slash goes up. */
const HIDDEN_DOTS = /(?:^|%2F|%5C)\.\.?(?:;|%3B|%2F|%5C|$)/

/**
 * @param path origin-form, from its first slash to before the `?`
 * @param keepSlashes %2F and %5C stay as they are instead of being refused, but not beside dot segments
 * @returns undefined when it is refused
 */
export function normalisePath(path: string, keepSlashes = false): string | undefined {
  if (isPlain(path)) return path
  let decoded = ''
  for (let i = 0; i < path.length; i++) {
    const c = path.charCodeAt(i)
    if (c === 92 /* \ */) return undefined
    if (c !== 37 /* % */) {
      decoded += path[i]
      continue
    }
    const hex = path.slice(i + 1, i + 3)
    if (!ESCAPE.test(hex)) return undefined
    const code = Number.parseInt(hex, 16)
    if (code === 0 || (!keepSlashes && (code === 0x2f || code === 0x5c))) return undefined
    const char = String.fromCharCode(code)
    decoded += UNRESERVED.test(char) ? char : `%${hex.toUpperCase()}`
    i += 2
  }
  const out: string[] = []
  const segments = decoded.split('/')
  for (let i = 1; i < segments.length; i++) {
    const segment = segments[i]!
    const last = i === segments.length - 1
    if (segment === '..') out.pop()
    else if (segment !== '.' && segment !== '') {
      if (DOTS_WITH_PARAMETER.test(segment) || (keepSlashes && HIDDEN_DOTS.test(segment))) return undefined
      out.push(segment)
      continue
    }
    if (last) out.push('') // a trailing slash stays, and `/a/..` is a directory
  }
  return `/${out.join('/')}`
}

/**
 * A path of the config file in the one form that requests have, so that `/caf%c3%a9` and `/café` match what arrives.
 * Undefined when no request can have it.
 */
export function literalPath(text: string): string | undefined {
  return normalisePath(text.replaceAll(/[^\x21-\x7e]+/gu, encodeURIComponent), true)
}

/** No escape, no backslash, no empty or dot segment: the path of nearly every request. */
function isPlain(path: string): boolean {
  let previous = 0
  for (let i = 0; i < path.length; i++) {
    const c = path.charCodeAt(i)
    if (c === 37 || c === 92) return false
    if (previous === 47 && (c === 47 || c === 46)) return false
    previous = c
  }
  return true
}
