/** The dashboard in a real browser, fed by a gateway under load: what somebody sees who keeps it open. */

import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { services } from '../../support/services.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const MAX_CCU = 10

// Not every machine has Chromium; CI does, and fails without.
describe.skipIf(services.chromium === undefined)('the dashboard of a gateway under load', { timeout: 60_000 }, () => {
  let upstreams: HttpUpstream[]
  let gateway: TestGateway
  let browser: Browser
  let page: Page
  const requested: string[] = []
  const problems: string[] = []

  beforeAll(async () => {
    const service = () => startHttpUpstream((request, response) => {
      if (request.url === '/health') response.end('ok')
      else setTimeout(() => response.end('ok'), 60)
    }) // biome-ignore format: short
    upstreams = [await service(), await service()]
    gateway = await startGateway({
      server: { threads: 2 },
      admission: { maxCCU: MAX_CCU, queueTimeout: '50ms' },
      upstreams: {
        app: {
          endpoints: upstreams.map(({ url }) => ({ url })),
          health: { path: '/health', interval: '200ms', timeout: '150ms', rise: 1, fall: 1 },
          circuitBreaker: {},
        },
      },
      routes: [{ name: 'orders', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    browser = await chromium.launch({ executablePath: services.chromium!, args: ['--no-sandbox'] })
    page = await browser.newPage({ viewport: { width: 1440, height: 1000 }, colorScheme: 'light' })
    page.on('request', (request) => requested.push(request.url()))
    page.on('pageerror', (error) => problems.push(String(error)))
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(message.text())
    })
    await page.goto(`http://127.0.0.1:${gateway.adminPort}/dashboard`)
  }, 60_000)

  afterAll(async () => {
    await browser?.close()
    await gateway?.close()
    for (const upstream of upstreams ?? []) await upstream.close()
  })

  // biome-ignore lint/performance/useDomNodeTextContent: what is seen, with spaces between what stands apart
  const text = (selector: string) => page.locator(selector).innerText()
  const soon = { timeout: 20_000, interval: 200 }

  it('is live, and shows concurrency rise above normal capacity and requests that are refused', async () => {
    await expect.poll(() => text('#live'), soon).toBe('Live')
    expect(await text('#zone')).toBe('Normal')
    const load = new SteadyLoad(gateway.port, 40)
    try {
      await expect.poll(async () => Number(await text('#ccu')), soon).toBeGreaterThan(MAX_CCU * 0.67)
      await expect.poll(() => text('#zone'), soon).toMatch(/Peak|cap/)
      await expect.poll(() => text('#charts'), soon).toMatch(/(?:CCU_FULL|QUEUE_FULL|QUEUE_TIMEOUT)\s*[1-9]/)
      await expect.poll(() => text('#tiles'), soon).toMatch(/Server errors\s*[1-9][\d.]* %/)
      await expect.poll(() => text('#routes'), soon).toContain('orders')
      expect(await page.title()).toMatch(/^\d+ CCU · .* req\/s/)
    } finally {
      await load.stop()
    }
    await expect.poll(() => text('#ccu'), soon).toBe('0')
  })

  it('shows an endpoint that goes down, and why', async () => {
    await expect.poll(() => text('#upstreams'), soon).toContain('2 of 2 healthy')
    await upstreams[1]!.close()
    await expect.poll(() => text('#upstreams'), soon).toContain('1 of 2 healthy')
    expect(await text('#upstreams')).toMatch(/unhealthy: .*ECONNREFUSED/)
    expect(await text('#upstreams')).toMatch(/breaker (?:closed|open)/)
  })

  it('is dark where the system is, and when asked to be', async () => {
    const background = () => page.evaluate<string>('getComputedStyle(document.body).backgroundColor')
    const light = await background()
    await page.emulateMedia({ colorScheme: 'dark' })
    const dark = await background()
    expect(dark).not.toBe(light)
    await page.click('#theme') // light, whatever the system says
    expect(await background()).toBe(light)
    await page.click('#theme')
    expect(await background()).toBe(dark)
    await page.emulateMedia({ colorScheme: 'light' })
    expect(await background()).toBe(dark)
  })

  it('fits a phone', async () => {
    for (const width of [390, 320, 768, 1440]) {
      await page.setViewportSize({ width, height: 844 })
      await page.waitForTimeout(200)
      expect(await page.evaluate<number>('document.documentElement.scrollWidth - innerWidth')).toBeLessThanOrEqual(0)
    }
  })

  it('sorts its routes, and tells the values under the pointer', async () => {
    await page.click('[data-sort="name"]')
    expect(await page.getAttribute('th:has([data-sort="name"])', 'aria-sort')).toBe('ascending')
    await page.locator('#chart-ccu .u-over').hover({ position: { x: 200, y: 50 } })
    await expect.poll(() => text('#chart-ccu .legend time'), soon).toMatch(/^\d\d:\d\d:\d\d$/)
  })

  it('asks nobody but its own origin, and breaks no rule of its own', () => {
    const origins = new Set(requested.filter((url) => !url.startsWith('data:')).map((url) => new URL(url).origin))
    expect([...origins]).toEqual([`http://127.0.0.1:${gateway.adminPort}`])
    expect(requested.some((url) => url.endsWith('/dashboard/events'))).toBe(true)
    expect(problems).toEqual([])
  })

  it('comes back by itself when the gateway was restarted', async () => {
    const { adminPort, port } = gateway
    const [remaining] = upstreams
    await gateway.stop()
    await expect.poll(() => text('#live'), soon).toBe('Reconnecting')
    await gateway.close()
    gateway = await startGateway({
      server: { listen: [{ address: `127.0.0.1:${port}` }], admin: { address: `127.0.0.1:${adminPort}` } },
      upstreams: { app: { endpoints: [{ url: remaining!.url }] } },
      routes: [{ name: 'orders', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    await expect.poll(() => text('#live'), soon).toBe('Live')
  })
})

// Not every machine has Chromium; CI does, and fails without.
describe.skipIf(services.chromium === undefined)('a dashboard behind a token', { timeout: 60_000 }, () => {
  it('is opened by the login form, which keeps no token in the page', async () => {
    const token = 'a-token-of-some-length'
    const gateway = await startGateway({
      server: { admin: { address: '127.0.0.1:0', token } },
      routes: [{ match: { path: '/' }, home: {} }],
    })
    const browser = await chromium.launch({ executablePath: services.chromium!, args: ['--no-sandbox'] })
    try {
      const page = await browser.newPage()
      await page.goto(`http://127.0.0.1:${gateway.adminPort}/dashboard`)
      await page.fill('#token', 'wrong')
      await page.click('button')
      expect(await page.textContent('[role="alert"]')).toContain('not the token')
      await page.fill('#token', token)
      await page.click('button')
      await expect.poll(() => page.locator('#live').textContent(), { timeout: 20_000 }).toBe('Live')
      expect(await page.content()).not.toContain(token)
      expect(await page.evaluate<string>('document.cookie')).toBe('')
    } finally {
      await browser.close()
      await gateway.close()
    }
  })
})
