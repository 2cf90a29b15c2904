/**
 * A lenient reader of HTTP/1.1 messages for tests: it takes apart what the gateway wrote, to the client or to the
 * upstream. It shares no code with the gateway, so that the two cannot be wrong together.
 */

export type Field = [name: string, value: string]

export interface Message {
  /** Request line or status line, without its CRLF. */
  startLine: string
  /** As received, in order. */
  fields: Field[]
  body: Buffer
  /** Chunk sizes as they came, without the last chunk; undefined when the message was not chunked. */
  chunks: number[] | undefined
  trailers: Field[]
  /** Bytes of the whole message. */
  byteLength: number
}

/** All values of a field, joined as RFC 9110 §5.2 says; undefined when absent. */
export function field(message: { fields: Field[] }, name: string): string | undefined {
  const values = message.fields.filter(([n]) => n.toLowerCase() === name.toLowerCase()).map(([, value]) => value)
  return values.length > 0 ? values.join(', ') : undefined
}

/** Lower-case field names, sorted, each as often as it came. */
export function fieldNames(message: { fields: Field[] }): string[] {
  return message.fields.map(([name]) => name.toLowerCase()).sort()
}

/**
 * Reads one message from the front of `bytes`; undefined when it is not complete yet.
 * @param bodyless the answer to HEAD, 204, 304 and 1xx: whatever its fields say, no body follows
 * @param untilClose what a length-less answer's body is, once the connection has ended; before that it is incomplete
 */
export function readMessage(bytes: Buffer, bodyless: boolean, untilClose: boolean): Message | undefined {
  const headEnd = bytes.indexOf('\r\n\r\n')
  if (headEnd < 0) return undefined
  const [startLine, ...lines] = bytes.toString('latin1', 0, headEnd).split('\r\n') as [string, ...string[]]
  const fields = lines.map(parseField)
  const bodyStart = headEnd + 4
  const whole = (bodyEnd: number): Message => ({
    startLine,
    fields,
    body: bytes.subarray(bodyStart, bodyEnd),
    chunks: undefined,
    trailers: [],
    byteLength: bodyEnd,
  })
  if (bodyless) return whole(bodyStart)
  if (/\bchunked\b/i.test(field({ fields }, 'transfer-encoding') ?? '')) {
    const chunked = readChunks(bytes, bodyStart)
    return chunked === undefined ? undefined : { startLine, fields, ...chunked }
  }
  const length = field({ fields }, 'content-length')
  if (length !== undefined) {
    const bodyEnd = bodyStart + Number(length)
    return bytes.length >= bodyEnd ? whole(bodyEnd) : undefined
  }
  if (!startLine.startsWith('HTTP/')) return whole(bodyStart)
  return untilClose ? whole(bytes.length) : undefined
}

function readChunks(bytes: Buffer, start: number): Omit<Message, 'startLine' | 'fields'> | undefined {
  const parts: Buffer[] = []
  let at = start
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at)
    if (lineEnd < 0) return undefined
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16)
    if (Number.isNaN(size))
      throw new Error(`not a chunk size: ${JSON.stringify(bytes.toString('latin1', at, lineEnd))}`)
    at = lineEnd + 2
    if (size === 0) break
    if (bytes.length < at + size + 2) return undefined
    parts.push(bytes.subarray(at, at + size))
    if (bytes.toString('latin1', at + size, at + size + 2) !== '\r\n') throw new Error('a chunk does not end in CRLF')
    at += size + 2
  }
  const trailers: Field[] = []
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at)
    if (lineEnd < 0) return undefined
    const line = bytes.toString('latin1', at, lineEnd)
    at = lineEnd + 2
    if (line === '') break
    trailers.push(parseField(line))
  }
  return { body: Buffer.concat(parts), chunks: parts.map((part) => part.length), trailers, byteLength: at }
}

function parseField(line: string): Field {
  const colon = line.indexOf(':')
  return colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).trim()]
}
