/**
 * What do balancing, health and breaking add to a request? Nanoseconds per call of what a request runs through on its way to
 * an endpoint. Also by itself: `node bench/micro/balancing.ts`.
 */

import type { BalancerName } from '../../src/upstream/balancers/balancer.ts'
import { createBalancer } from '../../src/upstream/balancers/balancer.ts'
import { Breaker } from '../../src/upstream/breaker.ts'
import { Endpoint } from '../../src/upstream/endpoint.ts'
import { recordLatency } from '../../src/upstream/latency.ts'
import { Outlier } from '../../src/upstream/outlier.ts'
import { isIdempotent, RetryBudget } from '../../src/upstream/retry.ts'
import { Sticky } from '../../src/upstream/sticky.ts'
import { printSuites, type Suite, type Timing, time } from './timing.ts'

function endpointsOf(count: number, weights: (i: number) => number = () => 1): Endpoint[] {
  return Array.from(
    { length: count },
    (_, i) => new Endpoint({ host: `10.0.0.${i + 1}`, port: 8080, secure: false }, { weight: weights(i) }),
  )
}

const breakerOptions = { errorRatio: 0.5, minRequests: 20, windowMs: 10_000, openForMs: 5000 }
const keys = Array.from({ length: 1024 }, (_, i) => ({ hashKey: `key-${i}` }))

/** A pick, and the place it takes and gives back; of 8 in flight at any time. */
function timePick(what: string, name: BalancerName, endpoints: Endpoint[]): Timing {
  const balancer = createBalancer(name)
  const inFlight: (Endpoint | undefined)[] = Array(8).fill(undefined)
  return time(what, (i) => {
    const leaving = inFlight[i & 7]
    if (leaving !== undefined) leaving.inFlight--
    const endpoint = balancer.pick(endpoints, keys[i & 1023]!, i / 100)
    if (endpoint !== undefined) endpoint.inFlight++
    inFlight[i & 7] = endpoint
    return endpoint
  })
}

export function measureBalancing(): Suite {
  const timings: Timing[] = []
  const measure = (what: string, run: (i: number) => unknown) => timings.push(time(what, run))
  const measurePick = (what: string, name: BalancerName, endpoints: Endpoint[]) =>
    timings.push(timePick(what, name, endpoints))

  for (const name of ['roundRobin', 'leastRequest', 'peakEwma', 'hash', 'first', 'slots'] as const) {
    for (const count of [1, 3, 10]) measurePick(`pick ${name}, ${count} of equal weight`, name, endpointsOf(count))
  }
  measurePick(
    'pick leastRequest, 3 of weights 3 2 1',
    'leastRequest',
    endpointsOf(3, (i) => 3 - i),
  )

  const ill = endpointsOf(3)
  ill[0]!.markUnhealthy(0, 'a bench')
  measurePick('pick leastRequest, 3 of which one is unhealthy', 'leastRequest', ill)

  const guarded = endpointsOf(3)
  for (const endpoint of guarded) endpoint.breaker = new Breaker(breakerOptions)
  measurePick('pick leastRequest, 3 with breakers', 'leastRequest', guarded)

  const breaker = new Breaker(breakerOptions)
  measure('breaker: allow and a good result', (i) => {
    const nowMs = i / 100
    const allowed = breaker.allow(nowMs)
    breaker.onResult(true, 3, nowMs, breaker.epoch)
    return allowed
  })

  const outlier = new Outlier({ consecutiveErrors: 5, errorRatio: 0.5, ejectForMs: 30_000, maxEjectedPercent: 50 })
  const watched = endpointsOf(3)
  measure('outlier: a good result', (i) => outlier.onResult(watched[i % 3]!, false, i / 100, i / 100, watched))
  measure('latency estimate of peakEwma', (i) => recordLatency(watched[i % 3]!, 3 + (i & 3), i / 100) ?? i)

  const budget = new RetryBudget(20)
  measure('retry budget: a first try', (i) => {
    budget.onFirstTry(i / 100)
    return isIdempotent('GET')
  })

  const sticky = new Sticky({ upstream: 'app', cookie: 'where', secret: 'secret' })
  sticky.update(watched)
  const cookie = `session=abcdef; theme=dark; ${/where=[^;]+/.exec(sticky.bind(undefined, watched[1]!))![0]}`
  measure('sticky: a client that is bound', (i) => sticky.find(cookie, i / 100))

  const of = (what: string) => timings.find((timing) => timing.what === what)!.bestNs
  const alone = of('pick leastRequest, 1 of equal weight')
  const p2c = of('pick leastRequest, 3 of equal weight') - alone
  const withBreakers = of('pick leastRequest, 3 with breakers') - of('pick leastRequest, 3 of equal weight')
  const breaking = of('breaker: allow and a good result') * 2 + withBreakers
  const notes = [
    `What is added to a request at one of three endpoints (active health checks: nothing, a pick reads their flag anyway):
  P2C, over an upstream of one endpoint          ${p2c.toFixed(0).padStart(5)} ns
  outlier detection                              ${of('outlier: a good result').toFixed(0).padStart(5)} ns
  two breakers, the upstream's and the endpoint's ${breaking.toFixed(0).padStart(4)} ns`,
  ]
  return { name: 'balancing', timings, notes }
}

if (import.meta.main) printSuites([measureBalancing()])
