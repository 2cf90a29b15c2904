/** One gateway with a plain and a TLS port: what comes in the clear is sent to the other, by scheme and not by port. */

import { readFileSync } from 'node:fs'
import { request } from 'node:https'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Certificates } from '../../support/certificates.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'

let certificates: Certificates
let gateway: TestGateway

beforeAll(async () => {
  certificates = new Certificates()
  const { cert, key } = certificates.issue('site', 'localhost', ['DNS:localhost'])
  gateway = await startGateway({
    server: {
      listen: [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls: { certificates: [{ cert, key }] } }],
      trustedProxies: ['127.0.0.2/32'],
    },
    routes: [
      { match: { scheme: 'http', pathPrefix: '/' }, redirect: { to: 'https://{host}{path}{query}' } },
      { match: { pathPrefix: '/' }, respond: { body: 'safe' } },
    ],
  })
})
afterAll(async () => {
  await gateway?.close()
  certificates.remove()
})

it('sends a plain request to https, path and query with it', async () => {
  const response = await fetch(`${gateway.url}/a/b?c=1`, {
    redirect: 'manual',
    headers: { 'x-forwarded-proto': 'https' },
  })
  expect(response.status).toBe(308)
  expect(response.headers.get('location')).toBe('https://127.0.0.1/a/b?c=1')
})

it('answers over TLS', async () => {
  const body = await new Promise<string>((resolve, reject) => {
    const options = {
      port: gateway.ports[1],
      host: '127.0.0.1',
      servername: 'localhost',
      ca: readFileSync(certificates.ca.cert),
    }
    const outgoing = request(options, (response) => {
      let text = ''
      response.on('data', (chunk: Buffer) => {
        text += chunk.toString()
      })
      response.on('end', () => resolve(text))
    })
    outgoing.on('error', reject)
    outgoing.end()
  })
  expect(body).toBe('safe')
})
