/**
 * The price of a hit in the memory cache, beside other caches, by size and coding. All three give out bytes that lie ready:
 *
 * - gzip, level 6: the gateway has compressed them once; nginx and Varnish have them from the service (`gzip_static`), so that
 *   nobody compresses at a hit. Plain answers come from a service that has nothing else: Varnish would unpack them each time.
 * - nginx: `proxy_cache` keeps files, which lie in the page cache; `sendfile on` for 100 KB. `open_file_cache`, which saves it
 *   opening the file at each hit, is shown beside.
 *
 * That they are hits is looked up at the service: once warm, nobody asks it any more.
 */

import { gzipSync } from 'node:zlib'
import type { Comparison } from './harness/compare.ts'
import type { Question } from './harness/question.ts'
import {
  gateway,
  LOAD_CORE,
  NGINX_PROXY,
  nginx,
  nginxUpstream,
  rawFloor,
  requestsOfUpstream,
  SMALL_JSON,
  type Subject,
  startNginx,
  varnish,
} from './harness/subjects.ts'
import { jsonOf } from './harness/texts.ts'

/** Where the service has it compressed too. */
const READY = '/ready/'

interface Case {
  title: string
  body: Buffer
  gzip: boolean
}

function compareHits({ title, body, gzip }: Case): Comparison {
  const name = 'body.json'
  const path = `/${name}`
  const theirs = gzip ? `${READY}${name}` : path
  const large = body.length > 64 * 1024 ? 'sendfile on;' : ''
  const cached = (label: string, directives: string): Subject => ({
    ...nginx(
      label,
      (port) => `${nginxUpstream(port)} proxy_cache_path $FOLDER/cache keys_zone=hit:10m max_size=64m inactive=1h;
  ${large} ${directives} server { listen 127.0.0.1:$PORT backlog=4096;
  location / { proxy_cache hit; proxy_cache_valid 200 1h; ${NGINX_PROXY} } }`,
    ),
    path: theirs,
  })
  const fluxor = gateway('Fluxor Gateway, hit', path, (port) => ({
    cache: { memory: { maxBytes: '64MiB' } },
    compression: { level: 6, encodings: ['gzip'] },
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app', cache: { ttl: '1h' }, compression: gzip }],
  }))
  const proxyCache = cached('nginx proxy_cache hit', '')
  const vs = (versus: Subject, atMost: number) => ({ subject: fluxor.name, versus: versus.name, atMost })
  return {
    title,
    subjects: [
      fluxor,
      proxyCache,
      cached('nginx with open_file_cache', 'open_file_cache max=16;'),
      { ...varnish, path: theirs },
    ]
      .map(hitting)
      // What the kernel and Node take for these bytes, whoever sends them.
      .concat(gzip ? [] : [rawFloor(body.toString())]),
    baseline: proxyCache.name,
    goals: [vs(proxyCache, 0.7), vs(varnish, 0.5)],
    body,
    ...(gzip && { encoding: 'gzip' as const, headers: { 'accept-encoding': 'gzip' } }),
    upstream: () =>
      startNginx(
        {
          files: {
            [`files${path}`]: body,
            [`files${READY}${name}`]: body,
            [`files${READY}${name}.gz`]: gzipSync(body, { level: 6 }),
          },
          http: `server { listen 127.0.0.1:$PORT backlog=4096; root $FOLDER/files; location = /_status { stub_status; }
  location / { etag off; } location ${READY} { etag off; gzip_static on; gzip_vary on; } }`,
        },
        LOAD_CORE,
      ),
  }
}

/** Proves that the service is asked once: a miss is no cheap hit. */
function hitting(subject: Subject): Subject {
  let upstreamPort = 0
  return {
    ...subject,
    start(port) {
      upstreamPort = port
      return subject.start(port)
    },
    async prove(url, headers) {
      const ask = async () => {
        const answer = await fetch(url, { headers: { 'accept-encoding': 'identity', ...headers } })
        await answer.arrayBuffer()
        if (answer.status !== 200) throw new Error(`${subject.name} answered ${answer.status}`)
      }
      await ask()
      // A large body may be compressed beside its first answers.
      await new Promise((resolve) => setTimeout(resolve, 200))
      const before = await requestsOfUpstream(upstreamPort)
      for (let i = 0; i < 3; i++) await ask()
      const asked = (await requestsOfUpstream(upstreamPort)) - before - 1
      if (asked > 0) throw new Error(`${subject.name} asked the service ${asked} times for what it has`)
    },
  }
}

const KB = 1024
const SMALL = Buffer.from(SMALL_JSON)

export const question: Question = {
  asks: 'what does a hit in the memory cache cost?',
  compare: [
    { title: '129 B', body: SMALL, gzip: false },
    { title: '1 KB', body: jsonOf(KB), gzip: false },
    { title: '1 KB, gzip', body: jsonOf(KB), gzip: true },
    { title: '100 KB', body: jsonOf(100 * KB), gzip: false },
    { title: '100 KB, gzip', body: jsonOf(100 * KB), gzip: true },
  ].map(compareHits),
}
