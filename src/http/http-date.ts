/**
 * HTTP dates (RFC 9110 §5.6.7), read strictly: a date that is not in one of the three forms is no date, and callers
 * treat it as the section of their field says (an invalid Expires has passed, an invalid Date is absent).
 */

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const MONTH = MONTHS.join('|')
const TIME = '(\\d{2}):(\\d{2}):(\\d{2})'
// The case of the names is ignored: some senders get it wrong, and no other reading is possible.
const IMF = new RegExp(`^(?:mon|tue|wed|thu|fri|sat|sun), (\\d{2}) (${MONTH}) (\\d{4}) ${TIME} gmt$`, 'i')
const RFC850 = new RegExp(`^(?:mon|tues|wednes|thurs|fri|satur|sun)day, (\\d{2})-(${MONTH})-(\\d{2}) ${TIME} gmt$`, 'i')
const ASCTIME = new RegExp(`^(?:mon|tue|wed|thu|fri|sat|sun) (${MONTH}) ([ \\d]\\d) ${TIME} (\\d{4})$`, 'i')

/** Milliseconds since 1970; NaN when it is not an HTTP date. `nowMs` settles the century of the RFC 850 form. */
export function parseHttpDate(text: string, nowMs: number): number {
  let m = IMF.exec(text)
  if (m !== null) return toMs(m[3]!, m[2]!, m[1]!, m[4]!, m[5]!, m[6]!)
  m = RFC850.exec(text)
  if (m !== null) {
    const thisYear = new Date(nowMs).getUTCFullYear()
    let year = thisYear - (thisYear % 100) + Number(m[3])
    if (year > thisYear + 50) year -= 100
    return toMs(String(year), m[2]!, m[1]!, m[4]!, m[5]!, m[6]!)
  }
  m = ASCTIME.exec(text)
  return m === null ? Number.NaN : toMs(m[6]!, m[1]!, m[2]!, m[3]!, m[4]!, m[5]!)
}

function toMs(year: string, month: string, day: string, hour: string, minute: string, second: string): number {
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 60) return Number.NaN
  const ms = Date.UTC(
    Number(year),
    MONTHS.indexOf(month.toLowerCase()),
    Number(day),
    Number(hour),
    Number(minute),
    Number(second),
  )
  // 31 Feb would roll over into March: not a date.
  return Number(day) >= 1 && new Date(ms - Number(second) * 1000).getUTCDate() === Number(day) ? ms : Number.NaN
}

let formattedSecond = Number.NaN
let formatted = ''

/** IMF-fixdate. The text of the current second is kept: most calls ask for the same one. */
export function formatHttpDate(ms: number): string {
  const second = Math.floor(ms / 1000)
  if (second !== formattedSecond) {
    formattedSecond = second
    formatted = new Date(second * 1000).toUTCString()
  }
  return formatted
}
