/** The price of passing a small answer through, against every proxy at hand. */

import type { Question } from './harness/question.ts'
import { caddy, fastifyHttpProxy, gateway, haproxy, httpProxy3, nginxProxy } from './harness/subjects.ts'

const fluxor = gateway('Fluxor Gateway', '/', (port) => ({
  upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
}))

export const question: Question = {
  asks: 'what does it cost to proxy a GET with a 129-byte JSON answer, 64 kept connections?',
  compare: {
    subjects: [fluxor, nginxProxy, haproxy, caddy, httpProxy3, fastifyHttpProxy],
    baseline: nginxProxy.name,
    goals: [
      { subject: fluxor.name, versus: nginxProxy.name, atMost: 1.25 },
      { subject: fluxor.name, versus: haproxy.name, atMost: 1.25 },
      { subject: fluxor.name, versus: caddy.name, atMost: 1 / 3.5 },
      { subject: fluxor.name, versus: httpProxy3.name, atMost: 1 / 5 },
      { subject: fluxor.name, versus: fastifyHttpProxy.name, atMost: 1 / 5 },
    ],
  },
}
