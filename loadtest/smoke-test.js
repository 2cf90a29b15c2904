// @ts-check
/**
 * Smoke: ten users for thirty seconds, to see that everything answers and quickly. For every push.
 *
 *   k6 run -e BASE_URL=http://localhost:8080 loadtest/smoke-test.js
 */

import { check, sleep } from 'k6'
import http from 'k6/http'
import { BASE_URL, note, params, scenarios, summary } from './shared.js'

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: scenarios([{ seconds: 30, target: 10 }], 0.1, 10),
  thresholds: {
    http_req_duration: ['p(95)<100', 'p(99)<200'],
    errors: ['rate<0.01'],
    http_req_failed: ['rate<0.01'],
  },
}

export default function () {
  for (const path of ['/', '/health', '/ready', '/api/metrics']) {
    const response = http.get(`${BASE_URL}${path}`, params())
    const good = note(response, response.status === 200)
    check(response, { [`${path} answers 200`]: () => good })
  }
  if (__ENV.SCENARIO !== 'arrivals') sleep(0.1)
}

export const handleSummary = summary('smoke')
