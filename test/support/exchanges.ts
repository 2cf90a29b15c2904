/** Exchanges without sockets, for what decides on a request's head alone. */

import type { ClientStream } from '../../src/exchange.ts'
import { Exchange } from '../../src/exchange.ts'
import { frameRequest, newFrame } from '../../src/http1/framing.ts'
import { headFromText } from '../../src/http1/message-head.ts'

export interface FakeAnswer {
  status: number
  fields: string
  body: string
}

export interface FakeClient extends ClientStream {
  /** Whole answers, as `respond` got them. */
  readonly answers: FakeAnswer[]
  closing: boolean
}

export interface ExchangeOptions {
  remoteAddress?: string
  secure?: boolean
  port?: number
  body?: ClientStream['body']
}

/** @param text start line and field lines, with LF or CRLF between them; Host is added when there is none */
export function makeExchange(text: string, options: ExchangeOptions = {}): Exchange & { client: FakeClient } {
  const lines = text.split(/\r?\n/).filter((line) => line !== '')
  if (!lines.some((line) => /^host:/i.test(line)) && !lines[0]!.endsWith('HTTP/1.0')) lines.splice(1, 0, 'Host: a.test')
  const head = headFromText('request', `${lines.join('\r\n')}\r\n\r\n`)
  const frame = newFrame()
  const error = frameRequest(head, frame)
  if (error !== null) throw new Error(error.detail)
  const x = new Exchange(head, fakeClient(options), 0)
  const question = frame.target.indexOf('?')
  x.path = question < 0 ? frame.target : frame.target.slice(0, question)
  x.query = question < 0 ? '' : frame.target.slice(question)
  x.authority = frame.authority
  x.connectionNames = frame.connectionNames
  x.clientAddress = x.client.remoteAddress
  x.requestId = 'id-1'
  return x as Exchange & { client: FakeClient }
}

function fakeClient({
  remoteAddress = '192.0.2.1',
  secure = false,
  port = 8080,
  body = null,
}: ExchangeOptions): FakeClient {
  const answers: FakeAnswer[] = []
  return {
    answers,
    closing: false,
    listener: { name: 'test', secure, port },
    remoteAddress,
    forwarded: null,
    body,
    bytesSent: 0,
    source: null,
    headSent: false,
    respond(status, fields, bytes) {
      const text = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : Buffer.from(bytes)
      answers.push({ status, fields, body: text.toString('utf8') })
    },
    closeAfter() {
      this.closing = true
    },
    head() {},
    informational() {},
    write: () => true,
    end() {},
    abort() {},
    flush() {},
    destroy() {},
  }
}
