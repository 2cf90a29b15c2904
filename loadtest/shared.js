// @ts-check
/**
 * What the k6 scripts have in common: where they ask, how much of the load they make, what counts as an error, and the
 * summary at the end.
 *
 *   BASE_URL      the gateway; default http://localhost:8080
 *   SCALE         share of the users, such as 0.1; default 1
 *   DURATION      share of the time, such as 0.1; default 1
 *   SCENARIO      users: virtual users who think between requests (default); arrivals: a rate of iterations that does
 *                 not slow down with the service
 *   TOKEN         bearer token for the routes that need one
 *   SUMMARY_JSON  file for the figures
 */

import http from 'k6/http'
import { Rate, Trend } from 'k6/metrics'

export const BASE_URL = (__ENV.BASE_URL || 'http://localhost:8080').replace(/\/+$/, '')
export const SCALE = positive('SCALE', 1)
const DURATION = positive('DURATION', 1)
const SCENARIO = __ENV.SCENARIO || 'users'

/** Every answer is told, good ones too: a rate that hears of failures alone is always 100 %. */
export const errors = new Rate('errors')
/** Answers that say "at capacity" (503 with the code BACKPRESSURE), and "too many requests" (429). */
export const shed = new Rate('shed')
export const limited = new Rate('limited')
/** How long served answers took. Refusals are quick, and would make http_req_duration look better than it was. */
export const served = new Trend('served_duration', true)

// Beyond its capacity a gateway answers 503 at once: that is what it is for, and no failed request.
http.setResponseCallback(http.expectedStatuses({ min: 200, max: 399 }, 401, 429, 503))

/**
 * @param {string} name
 * @param {number} fallback
 */
function positive(name, fallback) {
  const value = Number(__ENV[name] || fallback)
  if (!(value > 0)) throw new Error(`${name} must be a number above 0, not '${__ENV[name]}'`)
  return value
}

/**
 * @typedef {{ seconds: number, target: number }} Stage users to reach, and how long that takes
 * @typedef {import('k6/options').Scenario} Scenario
 */

/**
 * The scenario that `SCENARIO` asks for.
 * @param {Stage[]} stages
 * @param {number} thinkSeconds mean time between two iterations of a user
 * @param {number} [startAt] users at the beginning
 * @returns {Record<string, Scenario>}
 */
export function scenarios(stages, thinkSeconds, startAt = 0) {
  const scaled = (/** @type {number} */ users) => (users === 0 ? 0 : Math.max(1, Math.round(users * SCALE)))
  const time = (/** @type {number} */ seconds) => `${Math.max(1, Math.round(seconds * DURATION))}s`
  if (SCENARIO === 'users') {
    return {
      users: {
        executor: 'ramping-vus',
        startVUs: scaled(startAt),
        stages: stages.map(({ seconds, target }) => ({ duration: time(seconds), target: scaled(target) })),
        gracefulRampDown: '10s',
      },
    }
  }
  if (SCENARIO === 'arrivals') {
    const perSecond = (/** @type {number} */ users) => Math.round(scaled(users) / thinkSeconds)
    const peak = Math.max(...stages.map(({ target }) => scaled(target)))
    return {
      arrivals: {
        executor: 'ramping-arrival-rate',
        startRate: perSecond(startAt),
        timeUnit: '1s',
        preAllocatedVUs: Math.max(10, Math.ceil(peak / 10)),
        maxVUs: Math.max(10, peak),
        stages: stages.map(({ seconds, target }) => ({ duration: time(seconds), target: perSecond(target) })),
      },
    }
  }
  throw new Error(`SCENARIO must be users or arrivals, not '${SCENARIO}'`)
}

/**
 * Notes an answer: refused, served, or in error. Returns whether it was served.
 * @param {import('k6/http').RefinedResponse<'text'>} response
 * @param {boolean} good what the script expected of a served answer holds
 */
export function note(response, good) {
  const refusedAtCapacity = response.status === 503 && String(response.body).includes('"BACKPRESSURE"')
  const refusedByLimit = response.status === 429
  shed.add(refusedAtCapacity)
  limited.add(refusedByLimit)
  errors.add(!good && !refusedAtCapacity && !refusedByLimit)
  if (good) served.add(response.timings.duration)
  return good
}

/** @returns {{ headers: Record<string, string>, responseType: 'text' }} */
export function params(headers = {}) {
  return { headers, responseType: 'text' }
}

/**
 * The summary: a line a figure, the verdict of each threshold, and with SUMMARY_JSON the figures in a file.
 * @param {string} name
 */
export function summary(name) {
  /** @param {{ metrics: Record<string, { values: Record<string, number>, thresholds?: Record<string, { ok: boolean }> }> }} data */
  return (data) => {
    const value = (/** @type {string} */ metric, /** @type {string} */ of) => data.metrics[metric]?.values[of] ?? 0
    const verdicts = Object.entries(data.metrics).flatMap(([metric, { thresholds = {} }]) =>
      Object.entries(thresholds).map(([text, { ok }]) => ({ text: `${metric}: ${text}`, ok })),
    )
    const figures = {
      name,
      passed: verdicts.every(({ ok }) => ok),
      requests: value('http_reqs', 'count'),
      requests_per_second: value('http_reqs', 'rate'),
      errors: value('errors', 'rate'),
      shed: value('shed', 'rate'),
      limited: value('limited', 'rate'),
      p50_ms: value('served_duration', 'med'),
      p95_ms: value('served_duration', 'p(95)'),
      max_ms: value('served_duration', 'max'),
      thresholds: verdicts,
    }
    const percent = (/** @type {number} */ share) => `${(share * 100).toFixed(2)} %`
    const lines = [
      `${name}: ${figures.passed ? 'PASS' : 'FAIL'}`,
      `  requests  ${figures.requests} (${figures.requests_per_second.toFixed(0)}/s)`,
      `  served    p50 ${figures.p50_ms.toFixed(1)} ms, p95 ${figures.p95_ms.toFixed(1)} ms, max ${figures.max_ms.toFixed(1)} ms`,
      `  errors    ${percent(figures.errors)}, at capacity ${percent(figures.shed)}, rate limited ${percent(figures.limited)}`,
      ...verdicts.map(({ text, ok }) => `  ${ok ? 'PASS' : 'FAIL'}  ${text}`),
      '',
    ]
    /** @type {Record<string, string>} */
    const outputs = { stdout: lines.join('\n') }
    if (__ENV.SUMMARY_JSON) outputs[__ENV.SUMMARY_JSON] = `${JSON.stringify(figures, null, 2)}\n`
    return outputs
  }
}
