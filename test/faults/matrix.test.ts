/**
 * The fault matrix: everything that a service and a client can do wrong on one connection. For each: what the client
 * sees, what the access log says of it, and that places, sockets and descriptors are what they were before.
 */

import { createServer, type Server } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { expectAtRest, measure, metricsText, type Rest } from '../support/at-rest.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, sumOf, type TestGateway } from '../support/gateway.ts'
import { problem, RawClient, send } from '../support/raw-client.ts'
import {
  answer,
  bytes,
  bytesThenClose,
  bytesThenReset,
  hang,
  type RawUpstream,
  type Script,
  slowly,
  startRawUpstream,
} from '../support/upstream.ts'

const BIG = 32 * 1024 * 1024

let upstream: RawUpstream
let silent: Server
let resets: Server
let gateway: TestGateway
let before: Rest

const port = (server: Server) => (server.address() as { port: number }).port
const listen = (server: Server) => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

beforeAll(async () => {
  upstream = await startRawUpstream()
  silent = createServer((socket) => socket.on('error', () => {}))
  resets = createServer((socket) => socket.on('error', () => {}).resetAndDestroy())
  await Promise.all([listen(silent), listen(resets)])
  const timeouts = { connect: '600ms', firstByte: '600ms', idle: '600ms' }
  gateway = await startGateway({
    server: { timeouts: { header: '1s', body: '1s', request: '2s', idle: '2s' } },
    admission: { maxCCU: 50, workers: 40, queueTimeout: '500ms' },
    upstreams: {
      app: { endpoints: [{ url: upstream.url }], timeouts },
      refuses: { endpoints: [{ url: `http://127.0.0.1:${await freePort()}` }], timeouts },
      // The handshake is part of connecting: a service that never says a word in TLS hangs there.
      hangs: { endpoints: [{ url: `https://127.0.0.1:${port(silent)}` }], timeouts },
      resets: { endpoints: [{ url: `http://127.0.0.1:${port(resets)}` }], timeouts },
      nowhere: { dns: { name: 'no-such-name.invalid', port: 80, refresh: '5s' }, timeouts },
    },
    logging: { access: { format: 'json' } },
    routes: [
      ...['refuses', 'hangs', 'resets', 'nowhere'].map((name) => ({
        match: { pathPrefix: `/${name}` },
        upstream: name,
      })),
      { match: { pathPrefix: '/soon' }, upstream: 'app', timeout: '400ms' },
      { match: { pathPrefix: '/' }, upstream: 'app' },
    ],
  })
  await send(gateway.port, 'GET /warm HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n')
  upstream.dropConnections()
  await new Promise((resolve) => setTimeout(resolve, 100))
  await measure(gateway)
  before = await measure(gateway)
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
  silent?.close()
  resets?.close()
})

const get = (target: string, more = '') => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${more}\r\n`
const post = (target: string, length = 4, body = 'body') =>
  `POST ${target} HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${body}`

async function atRest(): Promise<void> {
  upstream.dropConnections()
  await expectAtRest(gateway, before)
}

/** The line of the access log about this path; lines leave together, a moment later. */
function logged(path: string) {
  return gateway.waitForLog((line) => line['url.path'] === path)
}

const LENGTH = 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n'
const CHUNKS = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

const forEver =
  (piece: string, first = ''): Script =>
  (socket) => {
    socket.write(first)
    const go = () => {
      while (!socket.destroyed && socket.write(piece)) if (socket.writableLength > 1e6) break
    }
    socket.on('drain', go)
    const timer = setInterval(go, 20)
    socket.on('close', () => clearInterval(timer))
    go()
  }

describe('the service', () => {
  /** `cut`: an answer began, and the client sees that it is not whole. */
  const cases: [title: string, path: string, script: Script | undefined, outcome: [number, string] | 'cut' | 'ok'][] = [
    ['refuses connections', '/refuses', undefined, [502, 'UP_CONNECT']],
    ['hangs while connecting', '/hangs', undefined, [504, 'UP_CONNECT']],
    ['resets each connection', '/resets', undefined, [502, '^UP_(?:CONNECT|RESET)$']],
    ['has no address', '/nowhere', undefined, [503, 'NO_ENDPOINT']],
    ['never answers', '/f1', hang, [504, 'UP_TIMEOUT']],
    ['never answers in the time of the route', '/soon/f', hang, [504, 'TIMEOUT']],
    ['hangs in the head', '/f2', bytes('HTTP/1.1 200 OK\r\nContent-Len'), [504, 'UP_TIMEOUT']],
    [
      'hangs behind an interim answer',
      '/f3',
      bytes('HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n'),
      [504, 'UP_TIMEOUT'],
    ],
    ['hangs in the body', '/f4', bytes(`${LENGTH}half`), 'cut'],
    ['hangs between chunks', '/f5', bytes(`${CHUNKS}4\r\nhalf\r\n`), 'cut'],
    ['hangs before the last chunk', '/f6', bytes(`${CHUNKS}4\r\nhalf\r\n0\r\n`), 'cut'],
    ['closes instead of an answer', '/f7', bytesThenClose(), [502, 'UP_RESET']],
    ['resets instead of an answer', '/f8', bytesThenReset(), [502, 'UP_RESET']],
    ['closes in the head', '/f9', bytesThenClose('HTTP/1.1 200 OK\r\nConte'), [502, 'UP_RESET']],
    ['resets in the head', '/f10', bytesThenReset('HTTP/1.1 200 OK\r\nConte'), [502, 'UP_RESET']],
    ['closes in the body', '/f11', bytesThenClose(`${LENGTH}half`), 'cut'],
    ['resets in the body', '/f12', bytesThenReset(`${LENGTH}half`), 'cut'],
    ['closes between chunks', '/f13', bytesThenClose(`${CHUNKS}4\r\nhalf\r\n`), 'cut'],
    ['resets between chunks', '/f14', bytesThenReset(`${CHUNKS}4\r\nhalf\r\n`), 'cut'],
    ['sends more than its length', '/f15', bytes(`${OK}and more`), 'ok'],
    ['closes behind a whole answer', '/f16', bytesThenClose(OK), 'ok'],
    ['sends garbage', '/f17', bytes('\x16\x03\x01\x02\x00garbage\r\n\r\n'), [502, 'UP_BAD']],
    ['sends a head of 2 MB', '/f18', bytes(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(2e6)}\r\n\r\n`), [502, 'UP_BAD']],
    ['sends a head without end', '/f19', forEver(`X: ${'x'.repeat(1000)}\r\n`, 'HTTP/1.1 200 OK\r\n'), [502, 'UP_BAD']],
    ['sends interim answers without end', '/f20', forEver('HTTP/1.1 100 Continue\r\n\r\n'), [502, 'UP_BAD']],
    ['sends hints without end', '/f21', forEver('HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n'), [502, 'UP_BAD']],
    [
      'drips its head',
      '/f22',
      slowly([...'HTTP/1.1 200 OK\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaa'], 100),
      [504, 'UP_TIMEOUT'],
    ],
    [
      'switches protocols unasked',
      '/f23',
      bytes('HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'),
      [502, 'UP_BAD'],
    ],
    ['sends a bad chunk', '/f24', bytes(`${CHUNKS}4\r\nhalf\r\nzz\r\n`), 'cut'],
    ['sends trailers without end', '/f25', forEver('X: yyyyyyyyyyyyyyyyyyyyy\r\n', `${CHUNKS}2\r\nok\r\n0\r\n`), 'cut'],
    ['sends chunk extensions without end', '/f26', forEver('yyyyyyyyyyyyyyyyyyyyy', `${CHUNKS}2\r\nok\r\n1;x=`), 'cut'],
  ]
  it.concurrent.each(cases)('%s', async (_title, path, script, outcome) => {
    if (script !== undefined) upstream.on(path, script)
    const result = await send(gateway.port, get(path, outcome === 'ok' ? 'Connection: close\r\n' : ''), {
      timeoutMs: 5000,
      ...(Array.isArray(outcome) ? { responses: 1 } : {}),
    })
    if (outcome === 'ok') {
      expect([result.status, result.responses[0]?.body.toString(), result.rest.length]).toEqual([200, 'ok', 0])
      expect(result.responses).toHaveLength(1)
    } else if (outcome === 'cut') {
      expect(result.ended, 'the connection ends').not.toBe('')
      if (result.responses.length === 0) expect(result.rest.length, 'what has begun is not whole').toBeGreaterThan(0)
      else expect(problem(result.responses[0]!)['code']).toMatch(/^UP_/)
    } else {
      const [status, code] = outcome
      expect([result.status, problem(result.responses[0]!)['code']]).toEqual([status, expect.stringMatching(code)])
    }
    const line = await logged(path)
    if (Array.isArray(outcome)) {
      const [status, code] = outcome
      expect(line).toMatchObject({ 'http.response.status_code': status, code: expect.stringMatching(code) })
    } else if (outcome === 'cut')
      expect(line).toMatchObject({ outcome: 'aborted', code: expect.stringMatching(/^UP_/) })
  })

  it('leaves nothing behind by any of it, and each is counted under its code', async () => {
    await atRest()
    const text = await metricsText(gateway)
    const counted = (code: string) => sumOf(text, 'fluxor_local_replies_total', { code }) ?? 0
    for (const code of ['UP_CONNECT', 'UP_RESET', 'UP_BAD', 'UP_TIMEOUT', 'TIMEOUT', 'NO_ENDPOINT']) {
      expect([code, counted(code) > 0]).toEqual([code, true])
    }
  })

  it.each([
    ['keeps its connection open', bytes('HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nearly')],
    ['closes behind it', bytesThenClose('HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nearly')],
    ['resets behind it', bytesThenReset('HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nearly')],
  ])(
    'answers before the request ends and %s: the client has the answer, and its place is free',
    async (_title, script) => {
      upstream.on('/early', script, { early: true })
      const client = new RawClient(gateway.port)
      await client.send(post('/early', 1_000_000, ''), 20, 'x'.repeat(10_000))
      const result = await client.answers(1)
      expect([result.status, result.responses[0]?.body.toString()]).toEqual([413, 'early'])
      client.close()
      await atRest()
    },
  )

  it('sends without end: the client who leaves ends it', async () => {
    upstream.on('/endless', forEver(`3e8\r\n${'x'.repeat(1000)}\r\n`, CHUNKS))
    const client = new RawClient(gateway.port)
    await client.send(get('/endless'))
    await client.until((result) => result.bytes.length > 100_000)
    client.reset()
    await atRest()
    await logged('/endless')
  })

  it('closes kept connections just as they are used: no GET is lost, no POST sent twice', async () => {
    let seen = 0
    upstream.on('/worst', (socket, request) => {
      seen++
      answer(200, 'ok')(socket, request)
      setImmediate(() => socket.destroy())
    })
    for (const [text, times] of [
      [get('/worst'), 40],
      [post('/worst'), 40],
    ] as const) {
      seen = 0
      const client = new RawClient(gateway.port)
      let good = 0
      for (let n = 1; n <= times; n++) {
        await client.send(text)
        const result = await client.answers(n)
        if (result.responses[n - 1]?.status === 200) good++
      }
      client.close()
      if (text.startsWith('GET')) expect(good).toBe(times)
      expect(seen).toBeLessThanOrEqual(times)
      expect(seen).toBeGreaterThanOrEqual(good)
    }
    await atRest()
  })
})

describe('the client', () => {
  /** Where in its exchange the client is when it goes. */
  const phases: [title: string, pieces: (string | number)[], script?: Script][] = [
    ['having said nothing', ['', 20]],
    ['in the request line', ['GET /c', 20]],
    ['in the head', ['GET /c HTTP/1.1\r\nHost: a.t', 20]],
    ['before its body', [post('/c', 100, ''), 30]],
    ['in its body', [post('/c', 100, 'half'), 30]],
    ['in a chunk', ['POST /c HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf', 30]],
    [
      'having been asked to go on',
      ['POST /c HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n', 30],
    ],
    ['while the service works', [get('/c'), 30]],
    ['while the service works on a body', [post('/c'), 30]],
    ['with a second request behind the first', [get('/c') + get('/c'), 30]],
    ['in the answer', [get('/c'), 50], bytes(`${LENGTH}half`)],
    ['in a chunked answer', [get('/c'), 50], bytes(`${CHUNKS}4\r\nhalf\r\n`)],
    ['without reading a large answer', [get('/c'), 80], answer(200, Buffer.alloc(BIG))],
    ['behind a refusal', [get('/a/..;/b'), 30]],
  ]
  const ways: [string, (client: RawClient) => void][] = [
    ['resets', (client) => client.reset()],
    ['closes', (client) => client.close()],
    ['ends its side and waits', (client) => void client.socket.end()],
  ]
  it.each(ways)('%s, at every point of an exchange: everything comes back', async (_title, leave) => {
    await Promise.all(
      phases.map(async ([title, pieces, script], i) => {
        const path = `/c${_title[0]}${i}`
        upstream.on(path, script ?? hang)
        const client = new RawClient(gateway.port)
        if (title.startsWith('without reading')) client.socket.pause()
        await client.send(
          ...pieces.map((piece) => (typeof piece === 'string' ? piece.replaceAll('/c ', `${path} `) : piece)),
        )
        leave(client)
        if (title.startsWith('without reading')) setTimeout(() => client.close(), 300)
        else await client.end(4000)
        client.close()
      }),
    )
    await atRest()
  })

  it('that drips head or body is cut in time, forty of them at once, and others are served meanwhile', async () => {
    const startedMs = performance.now()
    // Half of them hold a place with a body that does not come: there are more places than that.
    const slow = Array.from({ length: 40 }, async (_, i) => {
      const client = new RawClient(gateway.port)
      const text =
        i % 2 === 0 ? `GET /slow HTTP/1.1\r\nX: ${'a'.repeat(200)}` : `${post('/slow', 1000, '')}${'b'.repeat(200)}`
      const at = i % 2 === 0 ? 10 : text.indexOf('\r\n\r\n') + 4
      await client.send(text.slice(0, at))
      for (let n = at; n < text.length && client.ended === ''; n++) await client.send(text[n]!, 100)
      const { ended, status } = client.result()
      client.close()
      return [ended === '', status]
    })
    for (let i = 0; i < 20; i++) {
      const result = await send(gateway.port, get('/refuses'), { responses: 1 })
      expect(result.status).toBe(502)
    }
    const outcomes = await Promise.all(slow)
    expect(outcomes.filter(([open]) => open)).toEqual([])
    expect(new Set(outcomes.map(([, status]) => status))).toEqual(new Set([408]))
    expect(performance.now() - startedMs).toBeLessThan(8000)
    await atRest()
  })

  it.each([
    ['fields without end', 'GET / HTTP/1.1\r\nHost: a.test\r\n', 'X: y\r\n', [431]],
    ['one field without end', 'GET / HTTP/1.1\r\nHost: a.test\r\nX: ', 'yyyyyyyyyy', [431]],
    ['a target without end', 'GET /', 'aaaaaaaaaa', [414]],
    ['a method without end', '', 'GETGETGETG', [400]],
    ['empty lines without end', '', '\r\n\r\n\r\n\r\n\r\n', [400]],
    ['NULs without end', '', '\0\0\0\0\0\0\0\0\0\0', [400]],
  ])('that sends %s is refused once, and cut', async (_title, first, piece, statuses) => {
    const client = new RawClient(gateway.port)
    await client.send(first)
    // Less than is read behind a refusal: beyond that the connection is reset, and the answer may go with it.
    for (let i = 0; i < 20 && client.ended === ''; i++) await client.send(piece.repeat(1000))
    const result = await client.end(4000)
    client.close()
    expect(statuses).toContain(result.status)
    expect(result.responses).toHaveLength(1)
    await atRest()
  })

  it('that opens five hundred connections and says nothing loses them in time', async () => {
    const clients = Array.from({ length: 500 }, () => new RawClient(gateway.port))
    const ended = await Promise.all(clients.map((client) => client.end(6000)))
    for (const client of clients) client.close()
    expect(ended.filter((result) => result.ended === '')).toHaveLength(0)
    await atRest()
  })
})

it('after all this the process is the same, and has said nothing of an error of its own', () => {
  expect(gateway.running).toBe(true)
  const bad = gateway.logs().filter((line) => Number(line['level'] ?? 0) >= 50)
  expect(bad).toEqual([])
  expect(gateway.output()).not.toMatch(/unhandled|uncaught|TypeError|at .*\.ts:\d+/i)
})
