/**
 * What many connections cost: the same GET over 1, 64, 1 000 and 5 000 kept connections, in a closed loop. Opening them is
 * not what is asked: each has had some answers before it is measured, and requests are counted by the service behind.
 */

import { readFileSync } from 'node:fs'
import type { Question } from './harness/question.ts'
import {
  gateway,
  NGINX_PROXY,
  nginx,
  nginxUpstream,
  PROXY_CORE,
  rawForward,
  type Subject,
  startNginx,
} from './harness/subjects.ts'

const COUNTS = [1, 64, 1000, 5000]
const REFERENCE = 64
const MOST = Math.max(...COUNTS)
const AT_MOST = 1.3
/** Each connection may have one upstream, beside what a process needs anyway. */
const DESCRIPTORS = 2 * MOST + 500

const name = (proxy: string, count: number) => `${proxy}, ${count} connection${count === 1 ? '' : 's'}`

function counted(proxy: string, count: number, one: Subject): Subject {
  return {
    ...one,
    name: name(proxy, count),
    connections: count,
    versus: name(proxy, REFERENCE),
    start(port) {
      const limit = Number(/Max open files\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1])
      if (limit < DESCRIPTORS) throw new Error(`${DESCRIPTORS} descriptors are needed, ${limit} allowed: ulimit -n`)
      return one.start(port)
    },
  }
}

const fluxor = gateway('Fluxor Gateway', '/', (port) => ({
  // All that come are served: no place is to be missing.
  admission: { maxCCU: 2 * MOST, workers: 2 * MOST, maxQueue: 0 },
  // Opening is not what is asked: a service that accepts slowly meanwhile is waited for.
  upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }], timeouts: { connect: '10s' } } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
}))

// nginx opens a connection upstream for each exchange, and closes those beyond `keepalive`: here it keeps them all.
const peer: Subject = {
  ...nginx('nginx', () => ''),
  start: (port) =>
    startNginx(
      {
        connections: 3 * MOST,
        http: `${nginxUpstream(port, MOST)} server { listen 127.0.0.1:$PORT backlog=4096; location / { ${NGINX_PROXY} } }`,
      },
      PROXY_CORE,
    ),
}

export const question: Question = {
  asks: 'how does the cost of a request grow with the number of connections?',
  compare: {
    subjects: [
      ...COUNTS.map((count) => counted('Fluxor Gateway', count, fluxor)),
      ...COUNTS.map((count) => counted('nginx', count, peer)),
      // How much of it is Node's own.
      ...[REFERENCE, MOST].map((count) => counted(rawForward.name, count, rawForward)),
    ],
    baseline: `the same proxy with ${REFERENCE} connections`,
    settled: true,
    goals: [{ subject: name('Fluxor Gateway', MOST), versus: name('Fluxor Gateway', REFERENCE), atMost: AT_MOST }],
  },
}
