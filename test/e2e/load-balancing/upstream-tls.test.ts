/** TLS to the service: verified by default, with SNI, a CA file, a client certificate, and pinned keys. */

import { createHash, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { basename, join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { Certificates } from '../../support/certificates.ts'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { problem, type RawResult, send } from '../../support/raw-client.ts'

let certificates: Certificates
let gateway: TestGateway | undefined
let port = 0
let pin = ''
/** What the service saw of each request: SNI and the name in the client's certificate. */
let seen: [sni: unknown, client: unknown, reused: boolean][] = []
let server: ReturnType<typeof createServer>

beforeAll(async () => {
  certificates = new Certificates()
  const { cert, key } = certificates.issue('service', 'service', ['DNS:service.test', 'DNS:localhost'])
  certificates.issue('client', 'the gateway')
  const certificate = new X509Certificate(readFileSync(cert))
  const spki = certificate.publicKey.export({ type: 'spki', format: 'der' })
  pin = createHash('sha256').update(spki).digest('base64')
  const options = {
    cert: readFileSync(cert),
    key: readFileSync(key),
    ca: readFileSync(certificates.ca.cert),
    requestCert: true,
    rejectUnauthorized: false,
  }
  const sockets = new WeakSet<object>()
  server = createServer(options, (request, response) => {
    const socket = request.socket as TLSSocket & { servername?: string }
    seen.push([socket.servername, socket.getPeerCertificate()?.subject?.CN, sockets.has(socket)])
    sockets.add(socket)
    response.end('secret')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as AddressInfo).port
})
afterEach(async () => {
  await gateway?.close()
  gateway = undefined
  seen = []
})
afterAll(() => {
  server.close()
  server.closeAllConnections()
  certificates.remove()
})

const configOf = (tls?: ConfigObject): ConfigObject => ({
  upstreams: { app: { endpoints: [{ url: `https://localhost:${port}` }], ...(tls && { tls }) } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
})
async function ask(tls?: ConfigObject): Promise<RawResult> {
  gateway = await startGateway(configOf(tls))
  return get()
}
const get = () => send(gateway!.port, 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })
const inFolder = (name: string) => join(certificates.folder, name)

it('a certificate that nobody known has signed is refused', async () => {
  const result = await ask()
  expect([result.status, problem(result.responses[0]!)['code']]).toEqual([502, 'UP_CONNECT'])
  expect(seen).toEqual([])
  expect(await gateway!.metric('fluxor_upstream_errors_total', { kind: 'tls' })).toBeGreaterThan(0)
})

it('the CA of the config is believed, names are sent and connections kept', async () => {
  const result = await ask({ ca: inFolder('ca.crt') })
  expect(result.status, gateway!.output()).toBe(200)
  for (let i = 0; i < 3; i++) await get()
  expect(seen).toEqual([
    ['localhost', undefined, false],
    ['localhost', undefined, true],
    ['localhost', undefined, true],
    ['localhost', undefined, true],
  ])
})

it('serverName is sent and checked', async () => {
  expect((await ask({ ca: inFolder('ca.crt'), serverName: 'service.test' })).status).toBe(200)
  expect(seen[0]![0]).toBe('service.test')
  await gateway!.close()
  expect((await ask({ ca: inFolder('ca.crt'), serverName: 'other.test' })).status).toBe(502)
})

it('the gateway shows its certificate', async () => {
  expect(
    (await ask({ ca: inFolder('ca.crt'), cert: inFolder('client.crt'), key: inFolder('client.key') })).status,
  ).toBe(200)
  expect(seen[0]![1]).toBe('the gateway')
})

it('verify: false takes any certificate', async () => {
  expect((await ask({ verify: false })).status).toBe(200)
})

it('a pinned key must be the one', async () => {
  expect((await ask({ ca: inFolder('ca.crt'), pin })).status).toBe(200)
  await gateway!.close()
  const other = createHash('sha256').update('other').digest('base64')
  expect((await ask({ ca: inFolder('ca.crt'), pin: [other] })).status).toBe(502)
  await gateway!.close()
  expect((await ask({ ca: inFolder('ca.crt'), pin: [other, pin] })).status).toBe(200)
})

it('a file that is missing is an error of the config at the start, and leaves the old one at a reload', async () => {
  await expect(ask({ ca: 'missing.pem' })).rejects.toThrow(
    /upstreams\.app\.tls\.ca: \S*missing\.pem cannot be read: ENOENT/,
  )
  expect((await ask({ ca: inFolder('ca.crt') })).status).toBe(200)
  gateway!.reload(configOf({ ca: 'missing.pem' }))
  await gateway!.waitForLog(({ msg }) => msg === 'config not taken')
  expect((await get()).status).toBe(200)
  // Names are relative to the folder of the config.
  const { writeFileSync } = await import('node:fs')
  writeFileSync(join(gateway!.configFile, '..', basename(certificates.ca.cert)), readFileSync(certificates.ca.cert))
  gateway!.reload(configOf({ ca: basename(certificates.ca.cert) }))
  await gateway!.waitForLog(({ msg }) => msg === 'config reloaded')
  expect((await get()).status).toBe(200)
})
