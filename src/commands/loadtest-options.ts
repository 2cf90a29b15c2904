/** The options of `fluxor-gateway loadtest`, as the command line lists them. Apart from the command: the help is quick. */

import type { Option } from './cli.ts'

export const LOADTEST_OPTIONS = {
  url: { value: 'URL', describe: 'What to ask; with -c, where the gateway is.' },
  config: { short: 'c', value: 'FILE', describe: 'Asks the GET routes of this config.' },
  target: { multiple: true, value: "'[METHOD] PATH [WEIGHT]'", describe: 'A request of the mix; may be repeated.' },
  users: { value: 'N', describe: 'Users who ask, think, and ask again; the peak of a shape.' },
  rate: { value: 'N', describe: 'Requests a second instead of users; the peak of a shape.' },
  think: { value: 'TIME', describe: 'Mean time between two requests of a user; default 1s.' },
  arrivals: {
    value: 'poisson|even',
    describe: 'With --rate: as strangers arrive, or at equal distances; default poisson.',
  },
  shape: { value: 'STAGES', describe: "Such as '100..5000/10s, hold 30s'; levels are users, or a rate." },
  scale: { value: 'FACTOR', describe: 'Makes the shape higher or lower; such as 0.1.' },
  duration: { value: 'TIME', describe: 'Stretches or compresses the shape; without one, default 30s.' },
  slo: { value: 'SLOS', describe: "Objectives; default those of the shape, else 'p95<200ms,errors<0.1%'." },
  'find-capacity': { describe: 'Searches the highest rate that meets the objectives; --duration a step.' },
  method: { short: 'X', value: 'METHOD', describe: 'Default GET.' },
  header: { short: 'H', multiple: true, value: "'NAME: VALUE'", describe: 'Sent with every request.' },
  body: { value: 'TEXT|@FILE', describe: 'Sent with requests that are no GET.' },
  token: { value: 'TOKEN', describe: 'Sent as a bearer token, in place of one made from the config.' },
  expect: { value: 'STATUSES', describe: 'Statuses beside 2xx and 3xx that are no errors; such as 401,404.' },
  timeout: { value: 'TIME', describe: 'When a request is given up; default 10s.' },
  connections: { value: 'N', describe: 'Most connections at once; default 20000.' },
  threads: { value: 'N', describe: 'Threads that make load; default by the rate.' },
  'late-after': { value: 'TIME', describe: 'A start later than this is late; default 25ms.' },
  'max-late': { value: 'SHARE', describe: 'More late or missed starts make a run invalid; default 1%.' },
  insecure: { describe: 'Accepts any certificate.' },
  admin: { value: 'URL', describe: "The gateway's admin listener: plots its CCU, CPU and memory." },
  'admin-token': { value: 'TOKEN', describe: 'Its token; default $ADMIN_TOKEN.' },
  pid: { value: 'PID', describe: 'Plots CPU and memory of this process.' },
  html: { value: 'FILE', describe: 'Writes a report with plots, one file.' },
  json: { value: 'FILE', describe: 'Writes every figure; - is standard output.' },
  junit: { value: 'FILE', describe: 'Writes the verdicts for a CI system.' },
} as const satisfies Record<string, Option>
