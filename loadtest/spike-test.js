// @ts-check
/**
 * Spike: from 100 to 5 000 users in ten seconds, held for a minute. Whoever the gateway has no place for is told so at
 * once; those it takes are served as quickly as before.
 *
 *   k6 run -e BASE_URL=http://localhost:8080 -e SCALE=0.1 loadtest/spike-test.js
 */

import { check, sleep } from 'k6'
import http from 'k6/http'
import { BASE_URL, note, params, scenarios, summary } from './shared.js'

const PATH = __ENV.TARGET_PATH || '/health'

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: scenarios(
    [
      { seconds: 30, target: 100 },
      { seconds: 10, target: 5000 },
      { seconds: 60, target: 5000 },
      { seconds: 30, target: 100 },
      { seconds: 30, target: 0 },
    ],
    0.1,
  ),
  thresholds: {
    http_req_duration: ['p(95)<500'],
    served_duration: ['p(95)<500'],
    errors: ['rate<0.01'],
  },
}

export default function () {
  const response = http.get(`${BASE_URL}${PATH}`, params())
  note(response, response.status === 200)
  check(response, { 'status is 200 or 503': ({ status }) => status === 200 || status === 503 })
  if (__ENV.SCENARIO !== 'arrivals') sleep(0.1)
}

export const handleSummary = summary('spike')
