/** `upstreams.<name>`: a service, its endpoints, and how the gateway treats them. */

import { isIP } from 'node:net'
import { z } from 'zod'
import { httpUrl } from '../config/address.ts'
import { bytes, cookieName, duration, fieldName, oneOrMore, percent, secret } from '../config/types.ts'

const endpoint = z.strictObject({
  url: httpUrl()
    .refine((text) => !URL.canParse(text) || isOrigin(new URL(text)), {
      error: 'expected scheme, host and port only; a path belongs in the route\'s "rewrite"',
    })
    .describe('Scheme, host and port: `http://127.0.0.1:3000`.'),
  weight: z.int().min(0).max(1000).default(1).describe('Share of the traffic; 0 takes no new exchanges.'),
  backup: z.boolean().default(false).describe('Used only when no other endpoint is available.'),
})

function isOrigin(url: URL): boolean {
  return (url.pathname === '/' || url.pathname === '') && url.search === '' && url.hash === '' && url.username === ''
}

const dns = z.strictObject({
  name: z.string().min(1).describe('Name that is resolved, again and again; every address is an endpoint.'),
  port: z.int().min(1).max(65_535).optional().describe('Port of every address. With `type: SRV` the records carry it.'),
  refresh: duration().prefault('30s').describe('How often; a shorter TTL of the records is followed down to 1 s.'),
  type: z.enum(['auto', 'A', 'AAAA', 'SRV']).default('auto').describe('Record type; `auto`: A and AAAA.'),
  servers: z
    .array(
      z.string().refine((text) => dnsServer(text) !== undefined, {
        error: 'expected the address of a DNS server: 10.0.0.2, 10.0.0.2:5353 or [fd00::2]:53',
      }),
    )
    .min(1)
    .optional()
    .describe("DNS servers that are asked, in place of the system's."),
})

/** The address without its port; undefined when the text is no address. */
function dnsServer(text: string): string | undefined {
  const [, v6, v4] = /^(?:\[([0-9a-fA-F:.]+)\](?::\d{1,5})?|([\d.]+)(?::\d{1,5})?)$/.exec(text) ?? []
  const host = v6 ?? v4 ?? text
  return isIP(host) === 0 ? undefined : host
}

const pool = z.strictObject({
  maxOpenConns: z
    .int()
    .min(1)
    .default(1000)
    .describe('Most connections per endpoint, over all threads; then exchanges wait in order.'),
  maxIdleConns: z.int().min(0).default(100).describe('Most connections kept without an exchange, per endpoint.'),
  connMaxLifetime: duration().prefault('5m').describe('Age after which a connection is not used again. 0: no limit.'),
  connMaxIdleTime: duration()
    .prefault('55s')
    .describe("How long an unused connection is kept; shorter than the service's own keep-alive timeout."),
})

const timeouts = z.strictObject({
  connect: duration().prefault('1s').describe('TCP and TLS.'),
  firstByte: duration()
    .prefault('30s')
    .describe('From the request sent until the final head of the answer is complete.'),
  idle: duration()
    .prefault('30s')
    .describe('Between two pieces of the answer. Event streams fall under `server.timeouts.tunnelIdle`.'),
})

const statusRange = () =>
  z
    .union([z.int().min(100).max(599), z.string().regex(/^[1-5]\d\d(?:-[1-5]\d\d)?$/)], {
      error: 'expected a status or a range, such as 200 or 200-299',
    })
    .transform(String)

const health = z
  .strictObject({
    path: z
      .string()
      .regex(/^\/[^\s#]*$/, { error: 'expected a path that starts with "/"' })
      .optional()
      .describe('Path that is asked, with GET.'),
    tcp: z.literal(true).optional().describe('In place of `path`: an accepted TCP connection is enough.'),
    interval: duration().prefault('5s').describe('Between two checks of one endpoint, with ±10 % of jitter.'),
    timeout: duration().prefault('1s').describe('Longest wait for the answer.'),
    rise: z.int().min(1).default(2).describe('Good checks in a row before an endpoint is used again.'),
    fall: z.int().min(1).default(3).describe('Bad checks in a row before it is not.'),
    status: oneOrMore(statusRange())
      .prefault('200-399')
      .describe('Statuses that count as good: one, a range, or a list.'),
    body: z.string().min(1).optional().describe('Text that must stand in the first 64 KiB of the answer.'),
    host: z.string().min(1).optional().describe("Host field of the check; the endpoint's own without it."),
  })
  .refine(({ path, tcp }) => (path === undefined) !== (tcp === undefined), { error: 'takes one of "path" and "tcp"' })
  .refine(({ tcp, body, host }) => tcp === undefined || (body === undefined && host === undefined), {
    error: '"body" and "host" go with "path"',
  })

const outlier = z.strictObject({
  consecutiveErrors: z
    .int()
    .min(0)
    .default(5)
    .describe('5xx answers or failures without an answer, in a row, that eject an endpoint. 0: this rule is off.'),
  errorRatio: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe('Share of failures in the window that ejects an endpoint, 0 to 1. Absent: this rule is off.'),
  minRequests: z.int().min(1).default(20).describe('Fewer requests in the window say nothing about the share.'),
  window: duration().prefault('10s').describe('The window of `errorRatio`.'),
  ejectFor: duration()
    .prefault('30s')
    .describe('First ejection; each one that follows is longer by as much, up to ten times.'),
  maxEjectedPercent: percent().prefault(50).describe('Most endpoints ejected at once.'),
})

const circuitBreaker = z.strictObject({
  errorRatio: z.number().gt(0).max(1).default(0.5).describe('Share of failures in the window that opens it, 0 to 1.'),
  minRequests: z.int().min(1).default(20).describe('Fewer requests in the window never open it.'),
  window: duration().prefault('10s').describe('The time that the shares are taken over.'),
  openFor: duration()
    .prefault('5s')
    .describe(
      'How long it answers 503 before it lets a probe pass; each opening in a row doubles it, up to ten times.',
    ),
  slowCallRatio: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe('Share of calls slower than `slowCall` that opens it, 0 to 1. Absent: slow calls do not.'),
  slowCall: duration().prefault('1s').describe('A call that takes longer than this to its head is slow.'),
  probes: z.int().min(1).default(3).describe('Probes in a row, one at a time, that must succeed before it closes.'),
  ramp: duration().prefault(0).describe('Over how long traffic grows from a tenth to all once it closes. 0: at once.'),
})

const retryCondition = z
  .union(
    [z.enum(['connectError', 'reset', 'timeout']), z.string().regex(/^(?:[45]\d\d|5xx)$/), z.int().min(400).max(599)],
    { error: 'expected connectError, reset, timeout or a status such as "503" or "5xx"' },
  )
  .transform(String)

export const retryConfig = z.strictObject({
  attempts: z.int().min(0).max(10).default(1).describe('Retries beyond the first try. 0: none.'),
  on: z
    .array(retryCondition)
    .default(['connectError', 'reset'])
    .describe(
      'What is tried again: `connectError`, `reset`, `timeout`, or a status. Idempotent requests only, but for `connectError`.',
    ),
  budgetPercent: percent()
    .prefault(20)
    .describe('Retries as a share of the first tries of the last 10 s, and never fewer than 3 a second.'),
  perTryTimeout: duration()
    .prefault(0)
    .describe(
      'How long one try may take to the head of its answer, connecting and waiting included, before the next one takes its place. A try that none can follow goes on. 0: no limit.',
    ),
  bodyBytes: bytes().prefault('64KiB').describe('Largest request body that is kept to be sent again.'),
})
export type RetryConfig = z.output<typeof retryConfig>

const upstreamTls = z.strictObject({
  ca: z.string().min(1).optional().describe("File with the CA certificates, PEM, in place of the system's."),
  cert: z.string().min(1).optional().describe('File with the certificate that the gateway shows, PEM.'),
  key: z.string().min(1).optional().describe('File with its private key, PEM.'),
  pin: oneOrMore(
    z.string().regex(/^[A-Za-z0-9+/]{43}=$/, { error: 'expected the SHA-256 of a public key (SPKI) in base64' }),
  )
    .optional()
    .describe(
      "SHA-256 of the service's public key (SPKI), base64; one or several. The certificate must have one of them and still be valid.",
    ),
  serverName: z.string().min(1).optional().describe('Name sent as SNI and expected in the certificate.'),
  verify: z.boolean().default(true).describe('`false` accepts any certificate: for tests alone.'),
  minVersion: z.enum(['TLSv1.2', 'TLSv1.3']).default('TLSv1.2').describe('Oldest TLS version that is spoken.'),
})

const hashKey = z.string().regex(/^(?:ip|subject|apiKey|path|uri|header:\S+|cookie:\S+|query:\S+|claim:\S+)$/, {
  error: 'expected ip, subject, apiKey, path, uri, header:X, cookie:X, query:X or claim:X',
})

export const upstreamConfig = z
  .strictObject({
    endpoints: z.array(endpoint).min(1).optional().describe('The addresses of the service.'),
    dns: dns.optional().describe('The addresses come from DNS, in place of `endpoints`.'),
    balance: z
      .enum(['roundRobin', 'leastRequest', 'peakEwma', 'hash', 'first'])
      .default('leastRequest')
      .describe(
        'How an endpoint is chosen. `leastRequest` and `peakEwma` look at two at random; `first`: in order, the next when it is full or down.',
      ),
    hashKey: hashKey
      .default('ip')
      .describe(
        'With `balance: hash`: what is hashed, one of `ip`, `subject`, `apiKey`, `path`, `uri`, `header:NAME`, `cookie:NAME`, `query:NAME`, `claim:NAME`.',
      ),
    sticky: z
      .strictObject({
        cookie: cookieName().describe('Name of the cookie that names the endpoint.'),
        secret: secret()
          .optional()
          .describe(
            "Key of the cookie's value, the same in all gateways. Absent: who knows the addresses can choose one.",
          ),
        ttl: duration().prefault(0).describe('Life of the cookie; 0: until the browser closes.'),
      })
      .optional()
      .describe('A client keeps its endpoint as long as that is available.'),
    slowStart: duration()
      .prefault(0)
      .describe('An endpoint that comes back takes its full share only after this time. 0: off.'),
    pool: pool.prefault({}).describe('The kept-alive connections.'),
    timeouts: timeouts.prefault({}).describe('How long the service may take.'),
    health: health.optional().describe('Active checks. Absent: none.'),
    outlier: outlier.optional().describe('Endpoints that fail real requests are left out for a while. Absent: off.'),
    circuitBreaker: circuitBreaker.optional().describe('A failing service is given time to recover. Absent: off.'),
    retry: retryConfig.prefault({}).describe('Second tries. Absent: one, on connectError and reset, of what is safe.'),
    hedging: z
      .strictObject({
        after: duration().describe('How long the first try may stay unanswered before a second one starts.'),
      })
      .optional()
      .describe(
        'A slow GET or HEAD without a body is sent to a second endpoint too, within the retry budget; the first answer wins. Absent: off.',
      ),
    tls: upstreamTls.optional().describe('TLS to `https` endpoints; with `dns` it turns TLS on.'),
    host: z
      .string()
      .regex(/^[A-Za-z0-9_.:[\]-]+$/, { error: 'expected a host name, with a port if need be' })
      .optional()
      .describe("Host field of requests to the service. Absent: the client's own."),
    protocol: z
      .enum(['http1', 'h2'])
      .default('http1')
      .describe('`h2`: HTTP/2, as gRPC needs it; without TLS by prior knowledge.'),
    critical: z
      .boolean()
      .default(false)
      .describe('The gateway is not ready while this service has no healthy endpoint.'),
    slots: z
      .boolean()
      .default(false)
      .describe('Reads the `Fluxor-Slots` field of gateways behind this one and balances by their free places.'),
    proxyProtocol: z
      .union([z.literal(false), z.enum(['v1', 'v2'])], { error: 'expected false, v1 or v2' })
      .default(false)
      .describe('A PROXY protocol header opens every connection; connections are then not shared between clients.'),
  })
  .refine((upstream) => (upstream.endpoints === undefined) !== (upstream.dns === undefined), {
    error: 'needs exactly one of "endpoints" and "dns"',
  })
  .refine((upstream) => upstream.dns === undefined || upstream.dns.type === 'SRV' || upstream.dns.port !== undefined, {
    path: ['dns'],
    error: '"port" is needed unless the type is SRV',
  })
  .refine((upstream) => (upstream.tls?.cert === undefined) === (upstream.tls?.key === undefined), {
    path: ['tls'],
    error: '"cert" and "key" go together',
  })
  .refine((upstream) => upstream.tls?.pin === undefined || upstream.tls.verify, {
    path: ['tls'],
    error: '"pin" needs "verify"; a certificate that nobody signed can stand in "ca"',
  })
  .refine((upstream) => upstream.balance !== 'hash' || upstream.sticky === undefined, {
    path: ['sticky'],
    error: 'not with "balance: hash", which already keeps a client on its endpoint',
  })
export type UpstreamConfig = z.output<typeof upstreamConfig>

/** `split`: what decides before the weights do. */
export const splitByConfig = z
  .strictObject({
    cookie: cookieName()
      .optional()
      .describe('Cookie that keeps a client on the part it got, as long as its weight is above 0.'),
    ttl: duration().prefault(0).describe('Life of the cookie; 0: until the browser closes.'),
    header: fieldName()
      .optional()
      .describe('Request field whose value names the part (an upstream of the split), whatever its weight.'),
  })
  .refine(({ cookie, header }) => cookie !== undefined || header !== undefined, {
    error: 'takes "cookie", "header" or both',
  })
export type SplitByConfig = z.output<typeof splitByConfig>

export const mirrorConfig = z.strictObject({
  upstream: z.string().min(1).describe('The upstream that gets a copy; its answers are dropped.'),
  percent: percent().prefault(100).describe('Share of the requests that are copied.'),
  timeout: duration().prefault('5s').describe('Longest time for a copy, answer included; then it is given up.'),
  maxInFlight: z.int().min(1).default(100).describe('Most copies at once, over all threads; beyond it none is made.'),
  bodyBytes: bytes().prefault('64KiB').describe('A request with a larger body is not copied.'),
})
export type MirrorConfig = z.output<typeof mirrorConfig>

export const faultsConfig = z
  .strictObject({
    delay: duration().prefault(0).describe('Waits before the upstream is asked.'),
    abort: z.int().min(400).max(599).optional().describe('Answers with this status in place of the upstream.'),
    percent: percent().prefault(100).describe('Share of the requests.'),
  })
  .refine(({ delay, abort }) => delay > 0 || abort !== undefined, { error: 'takes "delay", "abort" or both' })
export type FaultsConfig = z.output<typeof faultsConfig>

export type EndpointConfig = NonNullable<UpstreamConfig['endpoints']>[number]
