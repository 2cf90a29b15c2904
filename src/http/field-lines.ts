/**
 * Field lines as the exchange carries them: one string, each line `Name: value CRLF`, checked by the head parser before.
 * For the stages that look at an answer (cache, compression); bare proxying never comes here.
 */

export interface FieldLine {
  /** Lower case. */
  readonly name: string
  readonly value: string
  /** With its CRLF. */
  readonly line: string
}

export function splitFieldLines(fields: string): FieldLine[] {
  const lines: FieldLine[] = []
  let start = 0
  while (start < fields.length) {
    let end = fields.indexOf('\r\n', start)
    if (end < 0) end = fields.length
    const colon = fields.indexOf(':', start)
    if (colon > start && colon < end) {
      lines.push({
        name: fields.slice(start, colon).toLowerCase(),
        value: fields.slice(colon + 1, end).trim(),
        line: `${fields.slice(start, end)}\r\n`,
      })
    }
    start = end + 2
  }
  return lines
}

/** Several lines of one name are joined as RFC 9110 §5.3 says. Undefined when there is none. */
export function fieldOf(lines: readonly FieldLine[], lowerCaseName: string): string | undefined {
  let value: string | undefined
  for (const line of lines) {
    if (line.name === lowerCaseName) value = value === undefined ? line.value : `${value}, ${line.value}`
  }
  return value
}

/** The value of one field without splitting the rest; several lines are joined. Undefined when absent. */
export function getField(fields: string, lowerCaseName: string): string | undefined {
  const length = lowerCaseName.length
  const first = lowerCaseName.charCodeAt(0)
  let value: string | undefined
  let start = 0
  while (start < fields.length) {
    let end = fields.indexOf('\r\n', start)
    if (end < 0) end = fields.length
    if (
      (fields.charCodeAt(start) | 0x20) === first &&
      fields.charCodeAt(start + length) === 58 /* : */ &&
      fields.slice(start, start + length).toLowerCase() === lowerCaseName
    ) {
      const one = fields.slice(start + length + 1, end).trim()
      value = value === undefined ? one : `${value}, ${one}`
    }
    start = end + 2
  }
  return value
}

/** The lines without those of the given lower-case names. */
export function withoutFields(fields: string, drop: (lowerCaseName: string) => boolean): string {
  let out = ''
  for (const { name, line } of splitFieldLines(fields)) if (!drop(name)) out += line
  return out
}
