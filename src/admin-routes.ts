/** What the admin and probes listeners serve. Thin: each entry asks the gateway and writes JSON. */

import { createWatch, type Watch } from './admin-watch.ts'
import { ConfigError, formatProblem } from './config/problems.ts'
import type { Gateway } from './gateway.ts'
import { AdminError, type AdminRoutes } from './listener/admin.ts'
import { certificateExpiry } from './listener/tls.ts'
import type { AdmissionFigures } from './observability/figures.ts'
import { MetricsPage } from './observability/registry.ts'
import { admissionGauges, admissionFigures as readFigures, watchPlaces } from './policies/admission/figures.ts'
import type { Places } from './policies/admission/places.ts'
import type { PurgeRequest } from './policies/cache/store.ts'
import { MetricsReader } from './shared/metrics-reader.ts'
import { type UpstreamStatus, upstreamGauges } from './upstream/status.ts'
import type { EndpointOrder } from './upstream/upstream.ts'
import { VERSION } from './version.ts'

export interface AdminSurface {
  /** The table of the admin listener, by the config of now. */
  admin(): AdminRoutes
  readonly probes: AdminRoutes
  readonly watch: Watch
}

export function createAdminSurface(gateway: Gateway): AdminSurface {
  const reader = new MetricsReader(gateway.memory.metrics)
  const page = new MetricsPage({
    reader,
    version: VERSION,
    admission: () => admissionFigures(gateway),
    reload: () => gateway.lastReload,
  })
  page.addSource(() => admissionGauges(placesOf(gateway)))
  page.addSource(() => gateway.control.gauges())
  page.addSource(() => certificateExpiry(gateway.config.server.listen, gateway.config.baseDir))
  let upstreams: UpstreamStatus = {}
  page.addSource(() => upstreamGauges(upstreams))
  const watch = createWatch(gateway, reader, page, () => admissionFigures(gateway))
  page.addSource(function* () {
    const help = 'Threads that died or stood still and were replaced.'
    yield { name: 'fluxor_threads_replaced_total', help, labels: {}, value: gateway.replaced, type: 'counter' }
  })
  const probes: AdminRoutes = {
    'GET /livez': (_request, response) => response.json({ status: 'alive' }),
    'GET /readyz': (_request, response) => {
      const { ready, reason } = gateway.readiness
      response.json({ ready, ...(reason !== '' && { reason }) }, ready ? 200 : 503)
    },
    'GET /metrics': async (_request, response) => {
      upstreams = await watch.endpoints()
      response.text(await page.render(), page.contentType)
    },
  }
  const admin: AdminRoutes = {
    ...probes,
    'GET /upstreams': async (_request, response) => response.json(await gateway.upstreams()),
    'POST /upstreams': async (request, response) => {
      const { upstream, url, ...order } = parseEndpointOrder(await request.json())
      if (!(await gateway.orderEndpoint(upstream, url, order))) {
        throw new AdminError(404, 'There is no such endpoint')
      }
      response.json(await gateway.upstreams())
    },
    'POST /reload': async (_request, response) => {
      try {
        await gateway.requestReload()
        response.json({ reloaded: true })
      } catch (error) {
        const problems = error instanceof ConfigError ? error.problems.map(formatProblem) : [(error as Error).message]
        response.json({ reloaded: false, problems }, 422)
      }
    },
    'POST /purge': async (request, response) => {
      response.json({ purged: await gateway.purge(parsePurge(await request.json())) })
    },
    'GET /explain': async ({ url }, response) => {
      const target = url.searchParams.get('url')
      if (target === null) throw new AdminError(400, 'Expected ?url=…, and &method=…&header=…&peer=… if need be')
      try {
        response.json(
          await gateway.explain({
            url: target,
            method: url.searchParams.get('method') ?? 'GET',
            headers: url.searchParams.getAll('header'),
            peer: url.searchParams.get('peer') ?? '127.0.0.1',
          }),
        )
      } catch (error) {
        throw new AdminError(400, (error as Error).message)
      }
    },
    'GET /config': async (_request, response) => {
      const { redact } = await import('./config/redact.ts')
      response.json(redact(gateway.config))
    },
  }
  return { admin: () => ({ ...admin, ...watch.routes() }), probes, watch }
}

/**
 * The body of `POST /upstreams`: `{"upstream":"app","url":"http://10.0.0.1:8080","weight":0}`, or `"drain":true`. Without
 * either, earlier orders are taken back.
 */
function parseEndpointOrder(body: unknown): { upstream: string; url: string } & EndpointOrder {
  const { upstream, url, weight, drain, ...rest } = (body ?? {}) as Record<string, unknown>
  const sound =
    typeof upstream === 'string' &&
    typeof url === 'string' &&
    (weight === undefined || (Number.isInteger(weight) && Number(weight) >= 0 && Number(weight) <= 1000)) &&
    (drain === undefined || typeof drain === 'boolean') &&
    Object.keys(rest).length === 0
  if (!sound) {
    throw new AdminError(400, 'Expected "upstream", "url", and "weight" (0 to 1000) or "drain" (true or false)')
  }
  return {
    upstream,
    url,
    ...(weight !== undefined && { weight: Number(weight) }),
    ...(drain === true && { drain: true }),
  }
}

const MAX_PURGE_ENTRIES = 1000

/** The body of `POST /purge`: `{"urls":[…],"prefixes":[…],"tags":[…],"soft":false}`. */
function parsePurge(body: unknown): PurgeRequest {
  const { urls = [], prefixes = [], tags = [], soft = false, ...rest } = (body ?? {}) as Record<string, unknown>
  const lists = [urls, prefixes, tags]
  const sound =
    lists.every((list) => Array.isArray(list) && list.every((item) => typeof item === 'string' && item !== '')) &&
    typeof soft === 'boolean' &&
    Object.keys(rest).length === 0
  if (!sound) throw new AdminError(400, 'Expected lists of texts "urls", "prefixes", "tags", and "soft" true or false')
  const count = lists.reduce<number>((sum, list) => sum + (list as string[]).length, 0)
  if (count === 0 || count > MAX_PURGE_ENTRIES) throw new AdminError(400, `Expected 1 to ${MAX_PURGE_ENTRIES} entries`)
  return { urls, prefixes, tags, soft } as PurgeRequest
}

/** Read from shared memory: no thread is asked. */
export function admissionFigures(gateway: Gateway): AdmissionFigures {
  return readFigures(placesOf(gateway), gateway.config.admission, gateway.memory.tierIds)
}

function placesOf({ memory, threads, config }: Gateway): Places {
  return watchPlaces(memory.places.get('')!, threads, config.admission, memory.tierIds)
}
