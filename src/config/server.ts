/**
 * `server`: what the process listens on and what it lets in. Limits and timeouts of the client's side stand here; those of
 * the other side stand at each upstream.
 */

import { z } from 'zod'
import { address, cidr } from './address.ts'
import { bytes, duration, fieldName, oneOrMore, secret } from './types.ts'

const listenerTls = z
  .strictObject({
    certificates: z
      .array(
        z.strictObject({
          cert: z.string().min(1).describe('File with the certificate and its chain, PEM.'),
          key: z.string().min(1).describe('File with the private key, PEM.'),
        }),
      )
      .min(1)
      .describe(
        'One certificate a name; the client chooses by SNI, the first one answers everybody else. Files are watched.',
      ),
    minVersion: z.enum(['TLSv1.2', 'TLSv1.3']).default('TLSv1.2').describe('Oldest TLS version that is spoken.'),
    clientCa: z
      .string()
      .min(1)
      .optional()
      .describe('File with the CA certificates that client certificates are checked against.'),
    clientAuth: z
      .enum(['require', 'optional'])
      .default('require')
      .describe('With `clientCa`: whether a client without a certificate is refused.'),
    clientAllow: z
      .array(z.string().min(1))
      .default([])
      .describe('Common and alternative names of the client certificates that are let in. Empty: all of that CA.'),
    clientHeaders: z
      .record(fieldName(), z.enum(['subject', 'commonName', 'san', 'serial', 'fingerprint']))
      .default({})
      .describe(
        "Request fields made of the client's certificate, such as `x-client-cert: subject`. The client's own fields of these names are dropped, on every route.",
      ),
    ciphers: z
      .enum(['intermediate', 'modern'])
      .default('intermediate')
      .describe('Cipher suites, as Mozilla recommends them. `modern`: those of TLS 1.3 alone.'),
  })
  .describe('Serves HTTPS.')

const listener = z.strictObject({
  address: address().describe('Host and port: `0.0.0.0:8080`, `[::]:8080`, `:8080`.'),
  tls: listenerTls.optional(),
  http2: z
    .boolean()
    .default(true)
    .describe('HTTP/2 by ALPN, and by prior knowledge without TLS. `false`: the preface is answered 400.'),
  proxyProtocol: z
    .boolean()
    .default(false)
    .describe('A PROXY protocol header (v1 or v2) is read first on connections from `trustedProxies`.'),
})

const admin = z.strictObject({
  address: address().prefault('127.0.0.1:9901').describe('Where the admin listener is bound.'),
  token: secret()
    .optional()
    .describe('Bearer token of the admin endpoints. Required when the address is not loopback.'),
  metricsToken: secret().optional().describe('Bearer token of `/metrics`; without it `/metrics` needs none.'),
  profiling: z.boolean().default(false).describe('Offers `/debug/pprof/profile` and `/debug/pprof/heap`.'),
})

export const serverConfig = z.strictObject({
  listen: oneOrMore(listener)
    .refine((list) => list.length > 0, { error: 'at least one listener is needed' })
    .prefault([{ address: '0.0.0.0:8080' }])
    .describe('The open ports.'),
  admin: z
    .union([z.literal(false), admin])
    .prefault({})
    .describe('Metrics, dashboard and operations, on a port of their own. `false` opens none.'),
  probes: z
    .strictObject({ address: address().describe('Where the probes listener is bound, such as `0.0.0.0:9902`.') })
    .optional()
    .describe('A port that serves `/livez`, `/readyz` and `/metrics` alone, for the kubelet and Prometheus.'),
  threads: z
    .union([z.literal('auto'), z.int().min(1).max(256)])
    .default(1)
    .describe('Data path threads. `auto`: one a core.'),
  threadStall: duration()
    .prefault('10s')
    .describe('With more than one thread: one that stands still for this long is replaced. 0: none is.'),
  trustedProxies: z
    .array(cidr())
    .default([])
    .describe('Peers whose X-Forwarded-* fields and PROXY headers are believed.'),
  underscoreHeaders: z
    .enum(['drop', 'keep'])
    .default('drop')
    .describe('Request fields with `_` in their names: many applications read `x_user` and `x-user` as one.'),
  encodedSlashes: z
    .enum(['reject', 'keep'])
    .default('reject')
    .describe('Paths with %2F or %5C: answered 400, or forwarded as they are.'),
  allowFaults: z
    .boolean()
    .default(false)
    .describe('Lets routes delay and fail requests on purpose (`faults`). For tests alone.'),
  forwardedHeader: z.boolean().default(false).describe('Adds the `Forwarded` field (RFC 7239) beside X-Forwarded-*.'),
  limits: z
    .strictObject({
      headerBytes: bytes().prefault('16KiB').describe('Largest request head; beyond it 431.'),
      headers: z.int().min(1).max(10_000).default(100).describe('Most fields in a request head; beyond it 431.'),
      uriBytes: bytes().prefault('8KiB').describe('Longest request target; beyond it 414.'),
      bodyBytes: bytes().prefault('10MiB').describe('Largest request body; beyond it 413. 0: no limit.'),
      connections: z
        .int()
        .min(1)
        .default(20_000)
        .describe('Most client connections at once, over all threads. Lowered to what the process may open.'),
    })
    .prefault({})
    .describe('Bounds on what a client may send.'),
  timeouts: z
    .strictObject({
      header: duration().prefault('10s').describe('From the first byte of a request to the end of its head.'),
      body: duration().prefault('30s').describe('Between two pieces of a request body.'),
      idle: duration().prefault('75s').describe('A kept-alive connection without a request.'),
      request: duration().prefault('60s').describe('Until the whole request is read. Streams fall under `tunnelIdle`.'),
      tunnelIdle: duration()
        .prefault('10m')
        .describe('A WebSocket or an event stream without traffic in either direction.'),
      tunnelLifetime: duration()
        .prefault(0)
        .describe('Age at which a WebSocket is closed with 1001, so that clients spread anew. 0: no limit.'),
    })
    .prefault({})
    .describe('How long a client may take.'),
  shutdown: z
    .strictObject({
      readinessDelay: duration()
        .prefault('0s')
        .describe('Between not ready and the listeners closing, for load balancers to notice.'),
      drain: duration().prefault('30s').describe('Longest wait for the exchanges in flight; the rest is cut.'),
    })
    .prefault({})
    .describe('What SIGTERM does.'),
})
export type ServerConfig = z.output<typeof serverConfig>
export type ListenerConfig = ServerConfig['listen'][number]
export type ListenerTlsConfig = NonNullable<ListenerConfig['tls']>
export type AdminConfig = Exclude<ServerConfig['admin'], false>
