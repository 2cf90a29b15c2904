/**
 * An HTTP/2 client that writes the frames and the field blocks it is told to: names and values that no HTTP/2 library
 * would send. One connection, one request, and what became of its stream.
 */

import { connect } from 'node:net'

const DATA = 0
const HEADERS = 1
const RST_STREAM = 3
const SETTINGS = 4
const GOAWAY = 7
const END_STREAM = 1
const END_HEADERS = 4
const ACK = 1

export type H2Fields = readonly (readonly [name: string, value: string])[]

export interface H2Request {
  fields: H2Fields
  /** Absent: the header block ends the stream. */
  body?: string
  /** Behind the body; ends the stream. */
  trailers?: H2Fields
}

/** `status` 0: there was no answer; the stream was reset or the connection ended. */
export interface H2Outcome {
  status: number
  ended: 'answered' | 'reset' | 'goaway' | 'closed' | 'timeout'
  body: string
}

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** An integer behind a prefix of seven bits (RFC 7541 §5.1), no Huffman. */
function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'latin1')
  const length: number[] = []
  if (bytes.length < 127) length.push(bytes.length)
  else {
    length.push(127)
    let rest = bytes.length - 127
    for (; rest >= 128; rest = Math.floor(rest / 128)) length.push((rest % 128) + 128)
    length.push(rest)
  }
  return Buffer.concat([Buffer.from(length), bytes])
}

/** Literals without indexing, as they stand (RFC 7541 §6.2.2). */
export function hpack(fields: H2Fields): Buffer {
  return Buffer.concat(fields.flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]))
}

/** The status of a block's first field: from the static table, or a literal under its name. */
function statusOf(payload: Buffer): number {
  const known = [200, 204, 206, 304, 400, 404, 500][payload[0]! - 0x88]
  if (known !== undefined) return known
  const length = payload[1]! & 0x7f
  const value = payload.subarray(2, 2 + length)
  if ((payload[1]! & 0x80) === 0) return Number(value.toString('latin1'))
  let bits = ''
  for (const byte of value) bits += byte.toString(2).padStart(8, '0')
  let digits = ''
  while (digits.length < 3) {
    const short = Number.parseInt(bits.slice(0, 5), 2)
    const size = short <= 2 ? 5 : 6 // 0, 1 and 2 take five bits, the other digits six
    digits += size === 5 ? short : Number.parseInt(bits.slice(0, 6), 2) - 0b011001 + 3
    bits = bits.slice(size)
  }
  return Number(digits)
}

export function sendH2(port: number, request: H2Request, timeoutMs = 3000): Promise<H2Outcome> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    let received = Buffer.alloc(0)
    let status = 0
    let body = ''
    const finish = (ended: H2Outcome['ended']) => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ status, ended, body })
    }
    const timer = setTimeout(() => finish('timeout'), timeoutMs)
    socket.on('error', () => {})
    socket.on('close', () => finish('closed'))
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk])
      while (received.length >= 9) {
        const size = 9 + received.readUIntBE(0, 3)
        if (received.length < size) return
        const [type, flags, payload] = [received[3], received[4]!, received.subarray(9, size)]
        received = received.subarray(size)
        if (type === SETTINGS && (flags & ACK) === 0) socket.write(frame(SETTINGS, ACK, 0))
        else if (type === HEADERS && status === 0) status = statusOf(payload)
        else if (type === DATA) body += payload.toString('latin1')
        else if (type === RST_STREAM) return finish(status === 0 ? 'reset' : 'answered')
        else if (type === GOAWAY) return finish(status === 0 ? 'goaway' : 'answered')
        if ((type === HEADERS || type === DATA) && (flags & END_STREAM) !== 0) return finish('answered')
      }
    })
    const { fields, body: data, trailers } = request
    const endsHere = data === undefined && trailers === undefined
    const frames = [
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      frame(SETTINGS, 0, 0),
      frame(HEADERS, END_HEADERS | (endsHere ? END_STREAM : 0), 1, hpack(fields)),
    ]
    if (data !== undefined)
      frames.push(frame(DATA, trailers === undefined ? END_STREAM : 0, 1, Buffer.from(data, 'latin1')))
    if (trailers !== undefined) frames.push(frame(HEADERS, END_HEADERS | END_STREAM, 1, hpack(trailers)))
    socket.write(Buffer.concat(frames))
  })
}
