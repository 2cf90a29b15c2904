// @ts-check
/**
 * Stress: up to 20 000 users, far beyond any capacity. The question is not whether everybody is served, but whether
 * everybody is answered.
 *
 *   k6 run -e BASE_URL=http://localhost:8080 -e SCALE=0.1 loadtest/stress-test.js
 */

import { check, sleep } from 'k6'
import http from 'k6/http'
import { BASE_URL, note, params, scenarios, summary } from './shared.js'

const PATH = __ENV.TARGET_PATH || '/health'

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: scenarios(
    [
      { seconds: 60, target: 5000 },
      { seconds: 120, target: 10_000 },
      { seconds: 120, target: 15_000 },
      { seconds: 120, target: 20_000 },
      { seconds: 60, target: 0 },
    ],
    0.05,
  ),
  thresholds: {
    http_req_duration: ['p(95)<1000'],
    served_duration: ['p(95)<1000'],
    errors: ['rate<0.05'],
  },
}

export default function () {
  const response = http.get(`${BASE_URL}${PATH}`, params())
  note(response, response.status === 200)
  // Status 0: no answer at all.
  check(response, { 'there is an answer': ({ status }) => status !== 0 })
  if (__ENV.SCENARIO !== 'arrivals') sleep(0.05)
}

export const handleSummary = summary('stress')
