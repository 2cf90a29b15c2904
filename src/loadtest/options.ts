/** The options of `fluxor-gateway loadtest`, as the command line lists them. Imports nothing: the help is quick. */

export interface OptionDescriptor {
  readonly type: 'string' | 'boolean'
  readonly short?: string
  readonly multiple?: boolean
  readonly value?: string
  readonly describe: string
}

export const LOADTEST_SUMMARY = 'Puts a service under load and tells whether it met its objectives.'
export const LOADTEST_USAGE =
  "[load|spike|stress|soak] --url URL | -c FILE [--users N | --rate N] [--duration 30s] [--slo 'p95<200ms,errors<0.1%']"

export const LOADTEST_OPTIONS = {
  url: { type: 'string', value: 'URL', describe: 'What to ask; with -c, where the gateway is.' },
  config: { type: 'string', short: 'c', value: 'FILE', describe: 'Asks the GET routes of this config.' },
  target: {
    type: 'string',
    multiple: true,
    value: "'[METHOD] PATH [WEIGHT]'",
    describe: 'A request of the mix; may be repeated.',
  },
  users: { type: 'string', value: 'N', describe: 'Users who ask, think, and ask again; the peak of a shape.' },
  rate: { type: 'string', value: 'N', describe: 'Requests a second instead of users; the peak of a shape.' },
  think: { type: 'string', value: 'TIME', describe: 'Mean time between two requests of a user; default 1s.' },
  arrivals: {
    type: 'string',
    value: 'poisson|even',
    describe: 'With --rate: as strangers arrive, or at equal distances; default poisson.',
  },
  shape: {
    type: 'string',
    value: 'STAGES',
    describe: "Such as '100..5000/10s, hold 30s'; levels are users, or a rate.",
  },
  scale: { type: 'string', value: 'FACTOR', describe: 'Makes the shape higher or lower; such as 0.1.' },
  duration: { type: 'string', value: 'TIME', describe: 'Stretches or compresses the shape; without one, default 30s.' },
  slo: {
    type: 'string',
    value: 'SLOS',
    describe: "Objectives; default those of the shape, else 'p95<200ms,errors<0.1%'.",
  },
  'find-capacity': {
    type: 'boolean',
    describe: 'Searches the highest rate that meets the objectives; --duration a step.',
  },
  method: { type: 'string', short: 'X', value: 'METHOD', describe: 'Default GET.' },
  header: { type: 'string', short: 'H', multiple: true, value: "'NAME: VALUE'", describe: 'Sent with every request.' },
  body: { type: 'string', value: 'TEXT|@FILE', describe: 'Sent with requests that are no GET.' },
  token: { type: 'string', value: 'TOKEN', describe: 'Sent as a bearer token, in place of one made from the config.' },
  expect: {
    type: 'string',
    value: 'STATUSES',
    describe: 'Statuses beside 2xx and 3xx that are no errors; such as 401,404.',
  },
  timeout: { type: 'string', value: 'TIME', describe: 'When a request is given up; default 10s.' },
  connections: { type: 'string', value: 'N', describe: 'Most connections at once; default 20000.' },
  threads: { type: 'string', value: 'N', describe: 'Threads that make load; default by the rate.' },
  'late-after': { type: 'string', value: 'TIME', describe: 'A start later than this is late; default 25ms.' },
  'max-late': {
    type: 'string',
    value: 'SHARE',
    describe: 'More late or missed starts make a run invalid; default 1%.',
  },
  insecure: { type: 'boolean', describe: 'Accepts any certificate.' },
  admin: { type: 'string', value: 'URL', describe: "The gateway's admin listener: plots its CCU, CPU and memory." },
  'admin-token': { type: 'string', value: 'TOKEN', describe: 'Its token; default $ADMIN_TOKEN.' },
  pid: { type: 'string', value: 'PID', describe: 'Plots CPU and memory of this process.' },
  html: { type: 'string', value: 'FILE', describe: 'Writes a report with plots, one file.' },
  json: { type: 'string', value: 'FILE', describe: 'Writes every figure; - is standard output.' },
  junit: { type: 'string', value: 'FILE', describe: 'Writes the verdicts for a CI system.' },
} as const satisfies Record<string, OptionDescriptor>
