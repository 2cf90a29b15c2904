/** The price of compressing: gzip at level 6 of 10 KB of JSON, one answer at a time, nothing cached. */

import type { Question } from './harness/question.ts'
import { gateway, NGINX_PROXY, nginx, nginxUpstream, startFiles } from './harness/subjects.ts'
import { jsonOf } from './harness/texts.ts'

const body = jsonOf(10_000)

const fluxor = gateway('Fluxor Gateway, gzip', '/items.json', (port) => ({
  compression: { level: 6, encodings: ['gzip'], minBytes: 1024 },
  upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app', compression: true }],
}))

const nginxGzip = {
  ...nginx(
    'nginx gzip',
    (port) => `gzip on; gzip_comp_level 6; gzip_types application/json; gzip_min_length 1024; gzip_proxied any;
  gzip_http_version 1.0; gzip_vary on; ${nginxUpstream(port)}
  server { listen 127.0.0.1:$PORT backlog=4096; location / { ${NGINX_PROXY} } }`,
  ),
  path: '/items.json',
}

export const question: Question = {
  asks: `what does gzip at level 6 of ${body.length} bytes of JSON cost, beside nginx?`,
  compare: {
    subjects: [fluxor, nginxGzip],
    baseline: nginxGzip.name,
    headers: { 'accept-encoding': 'gzip' },
    body,
    encoding: 'gzip',
    upstream: () => startFiles({ 'items.json': body }, 'application/json'),
    goals: [{ subject: fluxor.name, versus: nginxGzip.name, atMost: 1.2 }],
  },
}
