/** Status lines and dates, made once. */

import { flat } from './bytes.ts'

// An import of node:http would load an HTTP client with it.
const { STATUS_CODES } = process.getBuiltinModule('node:http')

const lines: string[] = []
for (let status = 100; status < 600; status++)
  lines[status] = flat(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n`)

export function statusLine(status: number): string {
  return lines[status]!
}

let dateText = ''
let dateSecond = -1

/** IMF-fixdate of now (RFC 9110 §5.6.7). */
export function httpDate(nowMs = Date.now()): string {
  const second = Math.floor(nowMs / 1000)
  if (second !== dateSecond) {
    dateSecond = second
    dateText = new Date(second * 1000).toUTCString()
  }
  return dateText
}
