/**
 * The price of bodies, both ways, beside nginx. What nginx is compared by is the setting that does what the gateway does:
 *
 * - requests: `proxy_request_buffering off`, which streams. `on` (nginx's default) collects the body first; it is shown
 *   beside, with a buffer that holds the largest, so that it never writes to disk.
 * - answers: `proxy_buffering on` (its default), which reads ahead as far as its buffers reach, as the gateway does, and
 *   no temporary files, for the same reason. `off` is shown beside.
 */

import { randomBytes } from 'node:crypto'
import type { Comparison } from './harness/compare.ts'
import type { Question } from './harness/question.ts'
import { gateway, LOAD_CORE, NGINX_PROXY, nginx, nginxUpstream, startFiles, startNode } from './harness/subjects.ts'

const AT_MOST = 1.5
const KB = 1000
const MB = 1_000_000

const through = (name: string, directives: string, path = '/') => ({
  ...nginx(
    name,
    (port) => `${nginxUpstream(port)} server { listen 127.0.0.1:$PORT backlog=4096;
    client_max_body_size 64m; client_body_buffer_size 2m; proxy_max_temp_file_size 0;
    location / { ${NGINX_PROXY} ${directives} } }`,
  ),
  path,
})

const fluxor = (path = '/') =>
  gateway('Fluxor Gateway', path, (port) => ({
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  }))

function post(title: string, bytes: number, connections: number): Comparison {
  const streaming = through('nginx, proxy_request_buffering off', 'proxy_request_buffering off;')
  const buffering = through('nginx, proxy_request_buffering on', 'proxy_request_buffering on;')
  const own = fluxor()
  const body = randomBytes(bytes)
  return {
    title: `${title}, ${connections} connections`,
    subjects: [own, streaming, buffering],
    baseline: streaming.name,
    goals: [{ subject: own.name, versus: streaming.name, atMost: AT_MOST }],
    connections,
    request: { method: 'POST', body },
    headers: { 'content-type': 'application/octet-stream' },
    body,
    upstream: () => startNode('echo-service.ts', {}, LOAD_CORE),
  }
}

function answer(title: string, bytes: number, connections: number): Comparison {
  const buffering = through('nginx, proxy_buffering on', 'proxy_buffering on;', '/body')
  const streaming = through('nginx, proxy_buffering off', 'proxy_buffering off;', '/body')
  const own = fluxor('/body')
  const body = randomBytes(bytes)
  return {
    title: `${title}, ${connections} connections`,
    subjects: [own, buffering, streaming],
    baseline: buffering.name,
    goals: [{ subject: own.name, versus: buffering.name, atMost: AT_MOST }],
    connections,
    body,
    upstream: () => startFiles({ body }),
  }
}

export const question: Question = {
  asks: 'what do bodies cost on their way through?',
  // Fewer connections where bodies are large: what is in flight is to fit in the caches and buffers of one machine.
  compare: [
    post('POST 10 KB, echoed', 10 * KB, 64),
    post('POST 1 MB, echoed', MB, 16),
    answer('GET 100 KB', 100 * KB, 64),
    answer('GET 10 MB', 10 * MB, 4),
  ],
}
