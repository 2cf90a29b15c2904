/** Endpoints from DNS, asked of a small DNS server of the test: addresses change, and then nobody answers any more. */

import { createSocket, type Socket } from 'node:dgram'
import { createServer, type Server } from 'node:http'
import { afterEach, expect, it } from 'vitest'
import { freePort } from '../../support/free-port.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type Condition, within } from '../../support/within.ts'

let gateway: TestGateway | undefined
let dns: DnsServer | undefined
const servers: Server[] = []
afterEach(async () => {
  await gateway?.close()
  dns?.close()
  for (const server of servers.splice(0)) {
    server.close()
    server.closeAllConnections()
  }
  gateway = dns = undefined
})

/** Answers every A question with these addresses and a TTL of 1 s, and every other question with nothing. */
class DnsServer {
  addresses: string[] = []
  asked = 0
  readonly #socket: Socket = createSocket('udp4')
  #closed = false

  async listen(): Promise<number> {
    this.#socket.on('message', (question, { port, address }) => {
      this.asked++
      this.#socket.send(this.#answer(question), port, address)
    })
    await new Promise<void>((resolve) => this.#socket.bind(0, '127.0.0.1', resolve))
    return this.#socket.address().port
  }

  close(): void {
    if (!this.#closed) this.#socket.close()
    this.#closed = true
  }

  #answer(message: Buffer): Buffer {
    let end = 12
    while (message[end] !== 0) end += message[end]! + 1
    end += 5
    const addresses = message.readUInt16BE(end - 4) === 1 ? this.addresses : []
    const head = Buffer.from(message.subarray(0, 12))
    head.writeUInt16BE(0x8180, 2) // a recursive answer without error
    head.writeUInt16BE(addresses.length, 6)
    head.writeUInt32BE(0, 8)
    const records = addresses.map((address) =>
      Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, ...address.split('.').map(Number)]),
    )
    return Buffer.concat([head, message.subarray(12, end), ...records])
  }
}

async function service(host: string, port: number): Promise<{ total: number }> {
  const count = { total: 0 }
  const server = createServer({ keepAliveTimeout: 60_000 }, (_request, response) => {
    count.total++
    response.end(host)
  })
  servers.push(server)
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  return count
}

const until = (done: Condition) => within(15_000, done, () => gateway?.output() ?? '')

it('addresses change and the DNS server dies: no request is dropped', async () => {
  const port = await freePort()
  const one = await service('127.0.0.2', port)
  const two = await service('127.0.0.3', port)
  dns = new DnsServer()
  dns.addresses = ['127.0.0.2']
  const dnsPort = await dns.listen()
  gateway = await startGateway({
    upstreams: {
      app: {
        dns: { name: 'app.test', port, type: 'A', refresh: '1s', servers: [`127.0.0.1:${dnsPort}`] },
        retry: { attempts: 0 },
      },
    },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  await gateway.waitForLog(({ msg }) => msg === 'listening')

  const load = new SteadyLoad(gateway.port, 6)
  await load.progress(200)
  expect(one.total).toBeGreaterThan(0)
  expect(two.total).toBe(0)

  dns.addresses = ['127.0.0.3', '127.0.0.2']
  await until(() => two.total > 50)
  dns.addresses = ['127.0.0.3']
  // A hundred in a row went to the other one: what was on its way has arrived.
  let [standing, elsewhere] = [-1, 0]
  await until(() => {
    if (one.total !== standing) [standing, elsewhere] = [one.total, two.total]
    return two.total > elsewhere + 100
  })
  await load.progress(300)
  expect(one.total, 'the address that is gone gets nothing more').toBe(standing)

  dns.addresses = [] // an answer without addresses: the last good one stays
  await gateway.waitForLog(({ msg }) => msg === 'name not resolved')
  await load.progress(200)
  dns.close()
  const outages = () => gateway!.logs().filter(({ msg }) => msg === 'name not resolved').length
  const before = outages()
  await until(() => outages() > before)
  await load.progress(300)
  const counts = await load.stop()
  expect(counts).toEqual({ sent: counts.sent, statuses: { 200: counts.sent }, lost: 0, refused: 0 })
  if (process.env['NUMBERS'])
    console.log(`dns: ${JSON.stringify(counts)}, ${one.total} and ${two.total} at the services`)
}, 60_000)
