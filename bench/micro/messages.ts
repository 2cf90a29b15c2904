/** Reading heads and writing them anew: what every forwarded exchange does twice. Also by itself. */

import { requestHead, responseFields } from '../../src/http/forward.ts'
import { frameRequest, newFrame } from '../../src/http1/framing.ts'
import { type HeadLimits, MessageHead, PARSED } from '../../src/http1/message-head.ts'
import { httpDate, statusLine } from '../../src/http1/status-line.ts'
import { makeExchange } from '../../test/support/exchanges.ts'
import { printSuites, type Suite, time } from './timing.ts'

const LIMITS: HeadLimits = { headBytes: 16_384, fields: 100, targetBytes: 8192 }

const lines = (...text: string[]) => `${text.join('\r\n')}\r\n\r\n`
const SMALL = lines('GET /orders/7 HTTP/1.1', 'Host: shop.example:8080')
/** Ten fields, some 600 bytes. */
const BROWSER = lines(
  'GET /orders/7?expand=customer HTTP/1.1',
  'Host: shop.example',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8',
  'Accept-Language: en-GB,en;q=0.9,de;q=0.8',
  'Accept-Encoding: gzip, deflate, br, zstd',
  'Referer: https://shop.example/orders',
  'Connection: keep-alive',
  'Cookie: session=5f2c1d0a9b8e7f6a; theme=dark; consent=all',
  'Cache-Control: max-age=0',
  'Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU',
)
const ANSWER = lines(
  'HTTP/1.1 200 OK',
  'Server: nginx/1.22.1',
  'Date: Tue, 24 Nov 2026 08:00:00 GMT',
  'Content-Type: application/json',
  'Content-Length: 129',
  'Connection: keep-alive',
)

const scratch = Buffer.alloc(4096)
/** As bytes: before a string is read, V8 has only noted its parts. */
const written = (text: string) => scratch.write(text, 0, 'latin1')

function parsing(what: string, kind: 'request' | 'response', text: string) {
  const head = new MessageHead(kind)
  const bytes = Buffer.from(text, 'latin1')
  return time(what, () => {
    head.reset()
    const result = head.parse(bytes, 0, bytes.length, LIMITS)
    if (result !== PARSED) throw new Error(`not parsed: ${head.error?.detail}`)
    return result
  })
}

export function measureMessages(): Suite {
  const options = { host: '', dropUnderscores: true, names: null, setsOwn: false, forwarded: false, startTrace: false }
  const browser = makeExchange(BROWSER)
  const small = makeExchange(SMALL)
  const frame = newFrame()
  const answer = new MessageHead('response')
  const bytes = Buffer.from(ANSWER, 'latin1')
  answer.parse(bytes, 0, bytes.length, LIMITS)
  return {
    name: 'messages',
    timings: [
      parsing(`parse a request of 1 field, ${SMALL.length} B`, 'request', SMALL),
      parsing(`parse a request of 10 fields, ${BROWSER.length} B`, 'request', BROWSER),
      parsing(`parse an answer of 5 fields, ${ANSWER.length} B`, 'response', ANSWER),
      time('framing of a request of 10 fields', () => frameRequest(browser.request, frame)),
      time('serialise the request of 1 field', () => written(requestHead(small, '/orders/7', 'a.test', options))),
      time('serialise the request of 10 fields', () => written(requestHead(browser, '/orders/7', 'a.test', options))),
      time('serialise the answer', () =>
        written(`${statusLine(200)}${responseFields(answer, null)}Content-Length: 129\r\n\r\n`),
      ),
      time('Date of now', () => httpDate()),
    ],
    notes: [],
  }
}

if (import.meta.main) printSuites([measureMessages()])
