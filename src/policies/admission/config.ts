/** `admission`: how many exchanges may be in flight, who waits, and who goes first. Global, and again on a route inside it. */

import { z } from 'zod'
import { duration, fieldName, oneOrMore, percent } from '../../config/types.ts'

const autoOr = (min: number) =>
  z.union([z.literal('auto'), z.int().min(min)], { error: `expected auto or a whole number from ${min}` })

const subjectKey = z.string().regex(/^(?:ip|subject|apiKey|route|header:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|claim:\S+)$/, {
  error: 'expected ip, subject, apiKey, route, header:X or claim:X',
})

const limits = {
  maxCCU: z
    .int()
    .min(1)
    .max(10_000_000)
    .default(5000)
    .describe('Hard cap on exchanges in service and queued, exact over all threads; the next one is answered 503.'),
  utilizationPercent: percent()
    .refine((value) => value > 0, { error: 'expected more than 0%' })
    .prefault(67)
    .describe('Normal capacity as a share of `maxCCU`, rounded down: 5000 and 67 give 3350.'),
  workers: autoOr(1)
    .default('auto')
    .describe('Most exchanges in service at the upstreams at once; `auto`: normal capacity. The rest waits.'),
  maxQueue: autoOr(0).default('auto').describe('Waiting places; `auto`: `maxCCU` less `workers`. 0: nobody waits.'),
  queueTimeout: duration().prefault('1s').describe('Longest wait for a place before the 503.'),
  discipline: z
    .enum(['fifo', 'lifo', 'adaptive'])
    .default('fifo')
    .describe(
      'Who leaves the queue first. `adaptive`: as `fifo`, but `lifo` and early drops (CoDel) while the queue does not empty.',
    ),
}

const tier = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/, { error: 'expected a name' })
    .describe('Name of the tier.'),
  guarantee: percent().prefault(0).describe("Share of `maxCCU` that is always this tier's when it asks."),
})

const perKey = z.strictObject({
  key: oneOrMore(subjectKey)
    .prefault('ip')
    .describe(
      'What is counted apart: `ip`, `subject`, `apiKey`, `route`, `header:NAME`, `claim:NAME`; a list combines them.',
    ),
  maxCCU: z.int().min(1).describe('Most exchanges in flight for one key; beyond it 503 with the reason `CCU_KEY`.'),
  maxKeys: z
    .int()
    .min(1)
    .max(1_000_000)
    .default(10_000)
    .describe('Most keys in flight at once; beyond it the limit is not applied to new ones.'),
})

const adaptive = z.strictObject({
  window: duration()
    .prefault('1s')
    .describe('Samples are taken together over this time; windows with fewer than 10 are skipped.'),
  tolerance: z
    .number()
    .min(1)
    .max(10)
    .default(1.5)
    .describe('How much slower than the baseline an answer may be before the limit falls.'),
  smoothing: z.number().gt(0).max(1).default(0.2).describe('Share of the new value in each move.'),
  mode: z
    .enum(['enforce', 'shadow'])
    .default('enforce')
    .describe('`shadow`: the moves are logged and shown, the limit stays at `workers`.'),
  minWorkers: autoOr(1).default('auto').describe('The limit never falls below it; `auto`: a tenth of `workers`.'),
})

const codel = z.strictObject({
  target: duration()
    .prefault('5ms')
    .describe('A queue whose shortest wait stays above it for an `interval` is overloaded.'),
  interval: duration().prefault('100ms').describe('How long the shortest wait is looked at.'),
})

const fleet = z.strictObject({
  redis: z.string().min(1).default('main').describe('The `redis` entry that holds the leases.'),
  name: z
    .string()
    .regex(/^[A-Za-z0-9_.-]{1,64}$/, { error: 'expected a name' })
    .default('default')
    .describe('Gateways with one name share one cap.'),
  maxCCU: z
    .int()
    .min(1)
    .describe('Cap of all instances together. Each leases a share; `admission.maxCCU` stays the cap of one.'),
  leaseTtl: duration().prefault('3s').describe('An instance that is silent for this long has lost its share.'),
  onPartition: z
    .enum(['floor', 'keep'])
    .default('floor')
    .describe(
      'Without Redis: `floor` falls to the key of that name; `keep` stays at the last share, with which the sum may pass the cap.',
    ),
  floor: autoOr(0).default('auto').describe('The share without Redis; `auto`: `maxCCU` over the instances last seen.'),
})

const pressure = z.strictObject({
  eventLoopDelay: duration()
    .prefault('100ms')
    .describe(
      'Delay of the event loop (p99 of a second) at which pressure is full; it begins at half. 0: not watched.',
    ),
  memoryPercent: percent()
    .prefault(90)
    .describe(
      'Resident memory, as a share of the limit of the container or machine, at which pressure is full. 0: not watched.',
    ),
  descriptorsPercent: percent()
    .prefault(90)
    .describe(
      'Open file descriptors, as a share of what the process may open, at which pressure is full. 0: not watched.',
    ),
  shrinkTo: percent()
    .prefault(20)
    .describe('Share of `maxCCU` left under full pressure. The lowest tier is shed first.'),
})

export const admissionConfig = z
  .strictObject({
    ...limits,
    mode: z
      .enum(['fixed', 'adaptive'])
      .default('fixed')
      .describe('`adaptive`: the number in service follows the latency of the upstreams, at most `workers`.'),
    adaptive: adaptive.prefault({}).describe('With `mode: adaptive`.'),
    codel: codel.prefault({}).describe('With `discipline: adaptive`.'),
    tiers: z
      .array(tier)
      .max(16)
      .default([])
      .describe(
        'Priorities, highest first: the lowest is shed first. An API key, a claim or a header puts a request in one.',
      ),
    defaultTier: z.string().optional().describe('Tier of requests that nothing puts in one; the lowest without it.'),
    tierHeader: fieldName()
      .optional()
      .describe('Request field that names the tier when identity does not. Believed from `trustedProxies` alone.'),
    perKey: perKey.optional().describe('A cap for each client beside the cap for all. Absent: off.'),
    fairBy: oneOrMore(subjectKey)
      .optional()
      .describe(
        'Who waits in one tier is served in turn between these keys, so that nobody owns the queue by asking more. Absent: the key of `perKey`, or none.',
      ),
    slotsHeader: z
      .boolean()
      .default(false)
      .describe(
        'Answers tell a gateway in front (`slots: true` there) how many places are free, and which 503 is a refusal for want of them: `Fluxor-Slots`, `Fluxor-Shed`.',
      ),
    maxStreams: autoOr(0)
      .default('auto')
      .describe('WebSockets, event streams and long HTTP/2 streams at once, in a pool of their own; `auto`: `maxCCU`.'),
    promoteAfter: duration().prefault('10s').describe('Age at which an HTTP/2 stream moves to the pool of streams.'),
    deadlineHeader: fieldName()
      .optional()
      .describe(
        'Request field with the time the client still has (`500ms`, `2s` or milliseconds): who cannot be served in it is refused at once. `grpc-timeout` is always read.',
      ),
    fleet: fleet.optional().describe('One cap for all instances. Absent: each has its own.'),
    pressure: pressure
      .optional()
      .describe('The cap shrinks when the process itself is short of time or memory. Absent: off.'),
  })
  .superRefine((admission, context) => {
    const sum = admission.tiers.reduce((total, { guarantee }) => total + guarantee, 0)
    if (sum > 100) {
      context.addIssue({ code: 'custom', path: ['tiers'], message: `the guarantees add up to ${sum}%, more than 100%` })
    }
  })
export type AdmissionConfig = z.output<typeof admissionConfig>
export type TierConfig = AdmissionConfig['tiers'][number]

/** A route's own admission, inside the global one: an exchange needs a place in both. */
export const admissionRouteConfig = z.strictObject({
  ...limits,
  maxCCU: z.int().min(1).max(10_000_000).describe('Hard cap of this route; the global one holds as well.'),
  utilizationPercent: percent()
    .refine((value) => value > 0, { error: 'expected more than 0%' })
    .prefault(100)
    .describe('Share of `maxCCU` in service when `workers` is `auto`.'),
})
export type AdmissionRouteConfig = z.output<typeof admissionRouteConfig>
