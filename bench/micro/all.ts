/** `node bench/micro/all.ts [--json]`: every mechanism of a request by its name, in one table. */

import { measureBalancing } from './balancing.ts'
import { measureMessages } from './messages.ts'
import { measureObservability } from './observability.ts'
import { measurePolicies } from './policies.ts'
import { measureRouting } from './routing.ts'
import { printSuites, type Suite, time } from './timing.ts'

const loop: Suite = { name: '(the loop alone)', timings: [time('', (i) => i)], notes: [] }
const suites = [
  loop,
  measureMessages(),
  measureRouting(),
  await measurePolicies(),
  measureObservability(),
  measureBalancing(),
]
if (process.argv.includes('--json')) console.log(JSON.stringify(suites))
else printSuites(suites)
