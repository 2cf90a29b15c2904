/** Cookies of a request (RFC 6265), as far as the gateway itself goes by one. */

/** The value of one cookie in a Cookie field (§4.2), '' when it is not there. */
export function cookieValue(field: string | undefined, name: string): string {
  if (field === undefined) return ''
  let start = 0
  while (start < field.length) {
    while (field[start] === ' ') start++
    let end = field.indexOf(';', start)
    if (end === -1) end = field.length
    if (field.startsWith(name, start) && field[start + name.length] === '=') {
      return field.slice(start + name.length + 1, end).trim()
    }
    start = end + 1
  }
  return ''
}
