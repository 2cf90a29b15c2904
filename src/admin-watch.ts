/**
 * What the supervisor sees of the gateway second by second, and who may look at it: the dashboard with its fifteen minutes,
 * the scaling figure, the key sets, and profiles. One tick a second reads shared memory and asks each thread once; nobody
 * who looks makes a thread work, profiles apart.
 */

import { setTimeout as delay } from 'node:timers/promises'
import type { Gateway } from './gateway.ts'
import { AdminError, type AdminRequest, type AdminRoutes } from './listener/admin.ts'
import { createDashboard } from './observability/dashboard.ts'
import type { AdmissionFigures, UpstreamFigures } from './observability/figures.ts'
import { History } from './observability/history.ts'
import { redactUrl } from './observability/log-text.ts'
import type { MetricsPage } from './observability/registry.ts'
import { Scale } from './observability/scale.ts'
import { keySetValues, limiterValues, scaleValues, userValues } from './observability/sources.ts'
import type { KeySetStatus } from './policies/auth/jwks.ts'
import { LimiterTable } from './shared/limiter-table.ts'
import type { MetricsReader } from './shared/metrics-reader.ts'
import type { UpstreamStatus } from './upstream/status.ts'
import { VERSION } from './version.ts'

/** As in profiles.ts, which is loaded when a profile is asked for. */
const DEFAULT_PROFILE_SEC = 30
/** A scrape waits no longer for a thread that stands still. */
const LONGEST_ANSWER_MS = 500

export interface Watch {
  /** Once a second. @param nowMs `performance.now()` */
  tick(nowMs: number): void
  /** Of all threads; what was known before when one of them is too busy to answer soon. */
  endpoints(): Promise<UpstreamStatus>
  /** For the admin table; anew after each reload. */
  routes(): AdminRoutes
  /** Ends the streams of the dashboard. */
  close(): void
}

export function createWatch(
  gateway: Gateway,
  reader: MetricsReader,
  page: MetricsPage,
  admission: () => AdmissionFigures,
): Watch {
  let status: UpstreamStatus = {}
  let upstreams: readonly UpstreamFigures[] = []
  let keySets: readonly KeySetStatus[] = []
  let asking: Promise<void> | undefined
  const history = new History(
    {
      reader,
      version: VERSION,
      admission,
      upstreams: () => upstreams,
      readiness: () => (gateway.readiness.ready ? 'ready' : gateway.readiness.reason),
    },
    performance.now(),
  )
  const scale = new Scale()
  const dashboard = createDashboard(history)
  const limiter = new LimiterTable(gateway.memory.limiter, 0)
  page.addSource(() => keySetValues(keySets, redactUrl))
  page.addSource(() => userValues(reader, performance.timeOrigin + performance.now()))
  page.addSource(() => limiterValues(limiter))
  page.addSource(() => scaleValues(scale.answer()))

  /** A thread that is busy answers late: then what was known stays, and it is not asked twice. */
  const ask = (): Promise<void> => {
    asking ??= askThreads().finally(() => {
      asking = undefined
    })
    return asking
  }
  const askThreads = async () => {
    try {
      status = await gateway.upstreams()
      upstreams = upstreamFigures(status, gateway)
      const remote = Object.values(gateway.config.identity.jwt).some(({ jwks }) => jwks !== undefined)
      keySets = remote ? mergeKeySets(await gateway.keySets()) : []
    } catch {
      // the gateway closes: there is nothing to ask any more
    }
  }

  return {
    tick(nowMs) {
      void ask()
      const { ccu, queued, queueCapacity, normalCCU, maxCCU, shed } = history.sample(nowMs)
      const durationMs = reader.lastMinute(performance.timeOrigin + nowMs).p50
      scale.sample({ ccu, queued, queueCapacity, normalCCU, maxCCU, refusedPerSec: shed, durationMs })
    },

    async endpoints() {
      const waited = new AbortController()
      const late = delay(LONGEST_ANSWER_MS, undefined, { ref: false, signal: waited.signal }).catch(() => {})
      await Promise.race([ask(), late])
      waited.abort()
      return status
    },

    routes() {
      const { admin } = gateway.config.server
      return {
        ...dashboard.routes,
        'GET /scale': ({ url }, response) => {
          const replicas = numberOf(url, 'replicas', 1, 1, 100_000)
          const headroom = numberOf(url, 'headroomPercent', 0, 0, 90) / 100
          response.json(scale.answer(replicas, headroom))
        },
        'GET /jwks': async (_request, response) => {
          const all = mergeKeySets(await gateway.keySets())
          response.json(all.map((set) => ({ ...set, url: redactUrl(set.url) })))
        },
        ...(admin !== false && admin.profiling && profileRoutes(gateway)),
      }
    },

    close: () => dashboard.close(),
  }
}

/** One at a time: a second session would profile the first. */
function profileRoutes(gateway: Gateway): AdminRoutes {
  let busy = false
  const alone = async (work: () => Promise<void>) => {
    if (busy) throw new AdminError(409, 'Another profile is being taken')
    busy = true
    try {
      await work()
    } finally {
      busy = false
    }
  }
  return {
    'GET /debug/pprof/profile': ({ url }, response) =>
      alone(async () => {
        const { LONGEST_PROFILE_SEC, toPprof } = await import('./observability/profiles.ts')
        const seconds = numberOf(url, 'seconds', DEFAULT_PROFILE_SEC, 1, LONGEST_PROFILE_SEC)
        const format = url.searchParams.get('format') ?? 'cpuprofile'
        if (format !== 'pprof' && format !== 'cpuprofile') throw new AdminError(400, 'format is pprof or cpuprofile')
        const thread = threadOf(gateway, url)
        const startedMs = Date.now()
        const profile = await gateway.profile(thread, seconds)
        response.raw.setHeader('Content-Disposition', `attachment; filename="thread-${thread}.${format}"`)
        if (format === 'cpuprofile') response.text(profile, 'application/json')
        else response.send(200, 'application/octet-stream', await toPprof(profile, startedMs))
      }),
    'GET /debug/pprof/heap': (request: AdminRequest, response) =>
      alone(async () => {
        const { pipeline } = await import('node:stream/promises')
        const thread = threadOf(gateway, request.url)
        const snapshot = await gateway.heapSnapshot(thread)
        response.raw.writeHead(200, {
          'Content-Type': 'application/json',
          'Content-Disposition': `attachment; filename="thread-${thread}.heapsnapshot"`,
        })
        await pipeline(snapshot, response.raw).catch(() => {}) // who asked has gone
      }),
  }
}

/** `thread=0` … of the data path, or `main`, the supervisor. */
function threadOf(gateway: Gateway, url: URL): number | 'main' {
  const text = url.searchParams.get('thread') ?? '0'
  if (text === 'main') return 'main'
  const thread = /^\d{1,3}$/.test(text) ? Number(text) : Number.NaN
  if (thread < gateway.threads) return thread
  throw new AdminError(404, `There is no such thread: 0 to ${gateway.threads - 1}, or main`)
}

function numberOf(url: URL, name: string, absent: number, min: number, max: number): number {
  const text = url.searchParams.get(name)
  if (text === null) return absent
  const value = /^\d{1,9}(?:\.\d{1,9})?$/.test(text) ? Number(text) : Number.NaN
  if (value >= min && value <= max) return value
  throw new AdminError(400, `${name} is a number from ${min} to ${max}`)
}

const BREAKERS = ['closed', 'halfOpen', 'open']

function upstreamFigures(upstreams: UpstreamStatus, gateway: Gateway): UpstreamFigures[] {
  return Object.entries(upstreams).map(([name, endpoints]) => {
    const worst = Math.max(0, ...endpoints.map(({ breaker }) => BREAKERS.indexOf(breaker ?? 'closed')))
    const guarded = gateway.config.upstreams[name]?.circuitBreaker !== undefined
    return { name, breaker: guarded ? BREAKERS[worst]!.replace('halfOpen', 'half-open') : '', endpoints }
  })
}

/** Each thread has its own copy of a key set: the oldest is told, and any error. */
function mergeKeySets(threads: readonly (readonly KeySetStatus[])[]): KeySetStatus[] {
  const byUrl = new Map<string, KeySetStatus>()
  for (const status of threads.flat()) {
    const known = byUrl.get(status.url)
    const older = known === undefined || (status.ageMs ?? Infinity) > (known.ageMs ?? Infinity) ? status : known
    byUrl.set(status.url, { ...older, lastError: known?.lastError ?? status.lastError })
  }
  return [...byUrl.values()]
}
