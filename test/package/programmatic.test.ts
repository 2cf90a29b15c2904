/** The package as a library: `createGateway`, in the process of the test. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ConfigError, type ConfigInput, createGateway, ListenError, type RunningGateway } from '../../src/index.ts'

let service: Server
let serviceUrl = ''
let gateway: RunningGateway | undefined

beforeEach(async () => {
  service = createServer((request, response) => response.end(`service ${request.url}`))
  await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
  serviceUrl = `http://127.0.0.1:${(service.address() as { port: number }).port}`
})

afterEach(async () => {
  await gateway?.close({ drain: false })
  gateway = undefined
  service.closeAllConnections()
  service.close()
})

function config(routes: ConfigInput['routes'], more: Partial<ConfigInput> = {}): ConfigInput {
  return {
    version: 1,
    server: { listen: [{ address: '127.0.0.1:0' }], admin: { address: '127.0.0.1:0' } },
    logging: { level: 'silent', access: { only: 'none' } },
    upstreams: { app: { endpoints: [{ url: serviceUrl }] } },
    routes,
    ...more,
  }
}

const all = { match: { pathPrefix: '/' }, upstream: 'app' }

describe('createGateway', () => {
  it('serves once started, and tells where', async () => {
    gateway = createGateway(config([all]))
    expect(gateway.ready).toBe(false)
    await gateway.start()
    expect(gateway.ready).toBe(true)
    expect(gateway.url).toBe(`http://127.0.0.1:${gateway.ports[0]}`)
    expect(await (await fetch(`${gateway.url}/orders/7`)).text()).toBe('service /orders/7')
    expect((await fetch(`http://127.0.0.1:${gateway.adminPort}/readyz`)).status).toBe(200)
    expect(Object.keys(await gateway.upstreams())).toEqual(['app'])
  })

  it('takes a new config without losing its port', async () => {
    gateway = createGateway(config([all]))
    await gateway.start()
    const { url } = gateway
    await gateway.reload(config([{ match: { path: '/' }, respond: { body: 'second' } }]))
    expect(await (await fetch(`${url}/`)).text()).toBe('second')
    expect((await fetch(`${url}/orders/7`)).status).toBe(404)
  })

  it('keeps what runs when a new config is wrong, and tells every problem of it', async () => {
    gateway = createGateway(config([all]))
    await gateway.start()
    const wrong = config([{ match: { pathPrefix: '/' }, upstream: 'ap' }], { admission: { maxCCU: 0 } })
    const error = await gateway.reload(wrong).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(ConfigError)
    expect((error as ConfigError).problems.map(({ path }) => path).sort()).toEqual([
      'admission.maxCCU',
      'routes[0].upstream',
    ])
    expect(await (await fetch(`${gateway.url}/still`)).text()).toBe('service /still')
  })

  it('throws a ConfigError at once, before anything runs', () => {
    expect(() => createGateway({ version: 1, routes: [] })).toThrow(ConfigError)
    expect(() => createGateway('/nowhere/gateway.yaml')).toThrow('there is no such file')
  })

  it('puts variables in from the given environment', async () => {
    const text = '$' + '{GREETING}'
    gateway = createGateway(config([{ match: {}, respond: { body: text } }]), { env: { GREETING: 'hello' } })
    await gateway.start()
    expect(await (await fetch(gateway.url)).text()).toBe('hello')
  })

  it('reads a file, and reads it again at a reload', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fluxor-api-'))
    try {
      const file = join(folder, 'gateway.yaml')
      writeFileSync(file, JSON.stringify(config([{ match: {}, respond: { body: 'one' } }])))
      gateway = createGateway(file)
      await gateway.start()
      expect(await (await fetch(gateway.url)).text()).toBe('one')
      writeFileSync(file, JSON.stringify(config([{ match: {}, respond: { body: 'two' } }])))
      await gateway.reload()
      expect(await (await fetch(gateway.url)).text()).toBe('two')
      writeFileSync(file, JSON.stringify(config([{ match: {}, respond: { body: 'three' } }])))
      const answer = await fetch(`http://127.0.0.1:${gateway.adminPort}/reload`, { method: 'POST' })
      expect(answer.status).toBe(200)
      expect(await (await fetch(gateway.url)).text()).toBe('three')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('tells warnings to who asks for them', () => {
    const warnings: string[] = []
    gateway = createGateway(
      config([all], {
        upstreams: { app: { endpoints: [{ url: serviceUrl }] }, spare: { endpoints: [{ url: serviceUrl }] } },
      }),
      {
        onWarning: ({ path }) => warnings.push(path),
      },
    )
    expect(warnings).toEqual(['upstreams.spare'])
  })

  it('rejects with a ListenError when the port is taken', async () => {
    gateway = createGateway(
      config([all], { server: { listen: [{ address: new URL(serviceUrl).host }], admin: false } }),
    )
    await expect(gateway.start()).rejects.toBeInstanceOf(ListenError)
  })

  it('drains at its end: what runs is answered, and nobody is let in after', async () => {
    service.removeAllListeners('request')
    service.on('request', (_request, response) => setTimeout(() => response.end('late'), 300))
    gateway = createGateway(config([all]))
    await gateway.start()
    const { url } = gateway
    const running = fetch(url)
    await new Promise<void>((resolve) => service.once('request', () => resolve()))
    expect(await gateway.close()).toBe(0)
    expect(await (await running).text()).toBe('late')
    expect(await gateway.close()).toBe(0)
    await expect(fetch(url)).rejects.toThrow()
    await expect(gateway.reload(config([all]))).rejects.toThrow('the gateway stops')
  })
})
