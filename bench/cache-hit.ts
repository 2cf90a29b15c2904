/** The price of a hit in the memory cache, against other caches. */

import type { Question } from './harness/question.ts'
import { gateway, nginxCache, varnish } from './harness/subjects.ts'

const fluxor = gateway(
  'Fluxor Gateway, hit',
  '/',
  (port) => ({
    cache: { memory: { maxBytes: '64MiB' } },
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app', cache: { ttl: '1h' } }],
  }),
  async (url) => {
    await (await fetch(url)).text()
    const second = await fetch(url)
    await second.text()
    const status = second.headers.get('cache-status') ?? 'no Cache-Status'
    if (!/;\s*hit/.test(status)) throw new Error(`the second request was not a hit: ${status}`)
  },
)

export const question: Question = {
  asks: 'what does a hit in the memory cache cost, a GET with a 129-byte JSON answer?',
  compare: {
    subjects: [fluxor, nginxCache, varnish],
    baseline: nginxCache.name,
    goals: [
      { subject: fluxor.name, versus: nginxCache.name, atMost: 0.7 },
      { subject: fluxor.name, versus: varnish.name, atMost: 0.5 },
    ],
  },
}
