/** What was parsed, written out and parsed again is the same message, and the writing is stable. */

import fc from 'fast-check'
import { expect, it } from 'vitest'
import { headFromText, MessageHead, PARSED } from '../../src/http1/message-head.ts'
import { fieldValue, stream, token } from './messages.ts'
import { LIMITS } from './read-requests.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

const KEEP_ALL = new Uint8Array(256)

function fields(head: MessageHead): [string, string][] {
  return Array.from({ length: head.fieldCount }, (_, i) => [head.rawNameAt(i), head.valueAt(i)])
}

const write = (head: MessageHead) =>
  `${head.method} ${head.target} HTTP/1.${head.minorVersion}\r\n${head.fieldLines(KEEP_ALL, false, null, null)}\r\n`

it('whatever is accepted', { timeout: FUZZ_TIMEOUT_MS }, () => {
  fc.assert(
    fc.property(stream, (text) => {
      const head = new MessageHead('request')
      const bytes = Buffer.from(text, 'latin1')
      if (head.parse(bytes, 0, bytes.length, LIMITS) !== PARSED) return
      const again = headFromText('request', write(head))
      expect([again.method, again.target, again.minorVersion]).toEqual([head.method, head.target, head.minorVersion])
      expect(fields(again)).toEqual(fields(head))
      expect(write(again)).toBe(write(head))
    }),
    parameters(1000),
  )
})

it('any fields', { timeout: FUZZ_TIMEOUT_MS }, () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(token, fieldValue), { maxLength: 40 }), (lines) => {
      const text = `GET / HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`
      const head = headFromText('request', text)
      expect(fields(head)).toEqual(lines)
      expect(write(head)).toBe(text)
      for (const [name] of lines) {
        const values = lines.filter(([other]) => other.toLowerCase() === name.toLowerCase()).map(([, value]) => value)
        expect(head.getAll(name.toLowerCase())).toEqual(values)
      }
    }),
    parameters(300),
  )
})
