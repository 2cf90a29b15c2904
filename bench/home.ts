/** The price of an answer that needs no upstream: the floor of everything else. */

import type { Question } from './harness/question.ts'
import { fasthttp, gateway, nginxReturn, rawFloor } from './harness/subjects.ts'

const fluxor = gateway('Fluxor Gateway, home', '/', () => ({ routes: [{ match: { path: '/' }, home: {} }] }))

export const question: Question = {
  asks: 'what does the home endpoint cost, against other servers that answer by themselves?',
  compare: {
    subjects: [fluxor, nginxReturn, fasthttp, rawFloor()],
    baseline: nginxReturn.name,
    body: null,
    goals: [
      { subject: fluxor.name, versus: nginxReturn.name, atMost: 1.2 },
      { subject: fluxor.name, versus: fasthttp.name, atMost: 1.1 },
    ],
  },
}
