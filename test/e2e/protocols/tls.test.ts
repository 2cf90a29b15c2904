/** TLS listeners: which certificate answers, files that change, client certificates, and what services see of them. */

import { execFile } from 'node:child_process'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { connect as netConnect } from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Certificates } from '../../support/certificates.ts'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const run = promisify(execFile)

let certificates: Certificates
let upstream: HttpUpstream
beforeAll(async () => {
  certificates = new Certificates()
  upstream = await startHttpUpstream((incoming, response) => response.end(JSON.stringify(incoming.headers)))
})
afterAll(async () => {
  await upstream.close()
  certificates.remove()
})

function config(listenTls: ConfigObject, server: ConfigObject = {}): ConfigObject {
  return {
    server: { listen: [{ address: '127.0.0.1:0', tls: listenTls }], ...server },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  }
}

function handshake(port: number, options: tls.ConnectionOptions = {}): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ port, host: '127.0.0.1', ca: readFileSync(certificates.ca.cert), ...options }, () =>
      resolve(socket),
    )
    socket.on('error', reject)
  })
}

async function servedName(port: number, servername?: string): Promise<string> {
  const socket = await handshake(port, { servername, checkServerIdentity: () => undefined })
  const { CN } = socket.getPeerCertificate().subject
  socket.destroy()
  return CN as string
}

/** A request over TLS; rejects when the connection breaks. */
function get(port: number, options: tls.ConnectionOptions & { headers?: Record<string, string> } = {}) {
  return new Promise<{ status: number; headers: Record<string, string> }>((resolve, reject) => {
    const outgoing = request(
      { port, host: '127.0.0.1', path: '/', agent: false, rejectUnauthorized: false, ...options },
      (response) => {
        let text = ''
        response.on('data', (chunk: Buffer) => {
          text += chunk.toString()
        })
        response.on('end', () =>
          resolve({ status: response.statusCode!, headers: text.startsWith('{') ? JSON.parse(text) : {} }),
        )
        response.on('error', reject)
      },
    )
    outgoing.on('error', reject)
    outgoing.end()
  })
}

describe('certificates', () => {
  let gateway: TestGateway
  beforeAll(async () => {
    const list = [
      certificates.issue('default', 'default.test', ['DNS:default.test']),
      certificates.issue('shop', 'shop.test', ['DNS:shop.test', 'DNS:*.shop.test']),
      certificates.issue('old', 'only-a-common-name.test'),
    ]
    gateway = await startGateway(config({ certificates: list }))
  })
  afterAll(() => gateway.close())

  it.each([
    ['shop.test', 'shop.test'],
    ['SHOP.test', 'shop.test'],
    ['eu.shop.test', 'shop.test'],
    ['a.eu.shop.test', 'default.test'],
    ['only-a-common-name.test', 'only-a-common-name.test'],
    ['elsewhere.test', 'default.test'],
    [undefined, 'default.test'],
  ])('who asks for %s gets the certificate of %s', async (asked, served) => {
    expect(await servedName(gateway.port, asked)).toBe(served)
  })

  it('the service is told that the client came over https', async () => {
    const { headers } = await get(gateway.port)
    expect(headers).toMatchObject({ 'x-forwarded-proto': 'https', 'x-forwarded-port': String(gateway.port) })
  })

  it.each(['--http1.1', '--http2'])('curl %s', async (flag) => {
    const { stdout } = await run('curl', [flag, '-sk', '-w', ' %{http_version}', `https://127.0.0.1:${gateway.port}/`])
    expect(stdout).toMatch(flag === '--http2' ? / 2$/ : / 1\.1$/)
  })

  it('clients that speak no TLS, and those that never finish the handshake, are let go', async () => {
    const plain = netConnect(gateway.port, '127.0.0.1')
    plain.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    await new Promise((resolve) => plain.on('close', resolve).on('error', () => {}))
    expect((await get(gateway.port)).status).toBe(200)
  })

  it('TLS 1.1 is refused', async () => {
    const old = handshake(gateway.port, { maxVersion: 'TLSv1.1', minVersion: 'TLSv1', rejectUnauthorized: false })
    await expect(old).rejects.toThrow()
  })

  it('metrics tell when each certificate ends', async () => {
    const ends = await gateway.metric('fluxor_tls_certificate_expiry_timestamp_seconds', {
      certificate: join(certificates.folder, 'shop.crt'),
    })
    const days = (ends! - Date.now() / 1000) / 86_400
    expect(days).toBeGreaterThan(1.9)
    expect(days).toBeLessThan(2.1)
  })
})

describe('certificate files that change', () => {
  it('new handshakes get the new certificate, no request fails and no connection is dropped', async () => {
    const live = { cert: join(certificates.folder, 'live.crt'), key: join(certificates.folder, 'live.key') }
    const put = (files: { cert: string; key: string }) => {
      copyFileSync(files.cert, live.cert)
      copyFileSync(files.key, live.key)
    }
    const second = certificates.issue('second', 'second.test')
    put(certificates.issue('first', 'first.test'))
    const gateway = await startGateway(config({ certificates: [live] }))
    try {
      const standing = await handshake(gateway.port, { checkServerIdentity: () => undefined })
      let failures = 0
      let requests = 0
      let running = true
      const load = Array.from({ length: 4 }, async () => {
        while (running) {
          await get(gateway.port).then(
            ({ status }) => {
              requests++
              if (status !== 200) failures++
            },
            () => failures++,
          )
        }
      })
      expect(await servedName(gateway.port)).toBe('first.test')
      put(second)
      await expect.poll(() => servedName(gateway.port), { timeout: 5000 }).toBe('second.test')

      writeFileSync(live.cert, 'half a certifi')
      await gateway.waitForLog(({ msg }) => msg === 'certificates not taken: the old ones stay')
      expect(await servedName(gateway.port)).toBe('second.test')
      running = false
      await Promise.all(load)
      expect(failures).toBe(0)
      expect(requests).toBeGreaterThan(10)

      const answered = new Promise<string>((resolve) => standing.once('data', (chunk) => resolve(chunk.toString())))
      standing.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
      expect(await answered).toContain('200 OK')
      standing.destroy()
    } finally {
      await gateway.close()
    }
  })

  it('a certificate that cannot be used is told at the start, by file', async () => {
    const mixed = { cert: certificates.issue('one', 'one.test').cert, key: certificates.issue('two', 'two.test').key }
    await expect(startGateway(config({ certificates: [mixed] }))).rejects.toThrow(/two\.key is not that of .*one\.crt/)
    const missing = { cert: '/nowhere/tls.crt', key: '/nowhere/tls.key' }
    await expect(startGateway(config({ certificates: [missing] }))).rejects.toThrow(/cannot be read.*nowhere\/tls\.crt/)
  })
})

it('handshakes that break off count against the limit of connections only while they last', async () => {
  const files = certificates.issue('limit', 'limit.test')
  const limits = { connections: 10 }
  const gateway = await startGateway(config({ certificates: [files] }, { limits, timeouts: { header: '2s' } }))
  try {
    const silent = Array.from({ length: 10 }, () => netConnect(gateway.port, '127.0.0.1').on('error', () => {}))
    // The kernel has them long before the gateway takes them, and the gateway takes them in no order.
    await expect.poll(() => gateway.metric('fluxor_connections_accepted_total'), { interval: 20 }).toBe(10)
    await expect(get(gateway.port)).rejects.toThrow()
    await Promise.all(silent.map((socket) => new Promise((resolve) => socket.on('close', resolve))))
    for (let i = 0; i < 30; i++) {
      const socket = netConnect(gateway.port, '127.0.0.1').on('error', () => {})
      socket.write(i % 2 === 0 ? 'no handshake at all\r\n\r\n' : Buffer.from([22, 3, 1, 0, 200, 1]))
      await new Promise((resolve) => setTimeout(resolve, 5))
      if (i % 3 === 0) socket.resetAndDestroy()
      else socket.destroy()
    }
    const patience = { timeout: 15_000 }
    await expect
      .poll(
        () =>
          get(gateway.port).then(
            ({ status }) => status,
            () => 0,
          ),
        patience,
      )
      .toBe(200)
    await expect.poll(() => gateway.metric('fluxor_connections'), patience).toBe(0)
  } finally {
    await gateway.close()
  }
})

describe('session tickets', () => {
  it('a session is resumed on whichever thread', async () => {
    const gateway = await startGateway(
      config({ certificates: [certificates.issue('ticket', 'ticket.test')] }, { threads: 2 }),
    )
    try {
      const options = { maxVersion: 'TLSv1.2' as const, rejectUnauthorized: false }
      const first = await handshake(gateway.port, options)
      const session = first.getSession()!
      first.destroy()
      for (let i = 0; i < 8; i++) {
        const again = await handshake(gateway.port, { ...options, session })
        expect(again.isSessionReused()).toBe(true)
        again.destroy()
      }
    } finally {
      await gateway.close()
    }
  })
})

describe('client certificates', () => {
  let gateway: TestGateway
  let known: tls.ConnectionOptions
  let unlisted: tls.ConnectionOptions
  let foreign: tls.ConnectionOptions
  const read = ({ cert, key }: { cert: string; key: string }) => ({ cert: readFileSync(cert), key: readFileSync(key) })
  beforeAll(async () => {
    known = read(certificates.issue('client', 'orders', ['URI:spiffe://test/orders', 'DNS:orders.internal']))
    unlisted = read(certificates.issue('unlisted', 'billing'))
    const other = new Certificates()
    foreign = read(other.issue('client', 'orders'))
    other.remove()
    gateway = await startGateway(
      config({
        certificates: [certificates.issue('mtls', 'mtls.test')],
        clientCa: certificates.ca.cert,
        clientAuth: 'optional',
        clientAllow: ['spiffe://test/orders'],
        clientHeaders: { 'X-Client': 'subject', 'X-Client-San': 'san' },
      }),
    )
  })
  afterAll(() => gateway.close())

  it('the service sees who the client is, and never what the client says itself', async () => {
    const { headers } = await get(gateway.port, { ...known, headers: { 'X-Client': 'CN=admin' } })
    expect(headers['x-client']).toBe('CN=orders')
    expect(headers['x-client-san']).toBe('URI:spiffe://test/orders, DNS:orders.internal')
    const anonymous = await get(gateway.port, { headers: { 'X-Client': 'CN=admin' } })
    expect(anonymous.status).toBe(200)
    expect(anonymous.headers).not.toHaveProperty('x-client')
  })

  it('a certificate of another CA, or one that is not on the list, is refused', async () => {
    await expect(get(gateway.port, foreign)).rejects.toThrow()
    await expect(get(gateway.port, unlisted)).rejects.toThrow()
  })

  it('where one is required, nobody comes in without', async () => {
    const strict = await startGateway(
      config({ certificates: [certificates.issue('strict', 'strict.test')], clientCa: certificates.ca.cert }),
    )
    try {
      await expect(get(strict.port)).rejects.toThrow()
      expect((await get(strict.port, unlisted)).status).toBe(200)
    } finally {
      await strict.close()
    }
  })
})

it('http goes to https by a redirect route', async () => {
  const files = certificates.issue('redirect', 'redirect.test')
  const gateway = await startGateway({
    server: { listen: [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls: { certificates: [files] } }] },
    routes: [{ match: { pathPrefix: '/' }, redirect: { to: 'https://redirect.test/', status: 308 } }],
  })
  try {
    const response = await fetch(`http://127.0.0.1:${gateway.port}/a`, { redirect: 'manual' })
    expect(response.status).toBe(308)
    expect(response.headers.get('location')).toContain('https://redirect.test/')
  } finally {
    await gateway.close()
  }
})
