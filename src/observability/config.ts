/** `logging` and `tracing`. The admin listener is configured under `server.admin`. */

import { z } from 'zod'
import { httpUrl } from '../config/address.ts'
import { duration, fieldName, percent, secret } from '../config/types.ts'

export const loggingConfig = z.strictObject({
  level: z
    .enum(['debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    .default('info')
    .describe("The gateway's own log: least level written."),
  file: z.string().min(1).optional().describe('File of the log; standard output without it. Reopened on SIGUSR2.'),
  access: z
    .strictObject({
      format: z
        .enum(['json', 'common', 'combined'])
        .default('json')
        .describe('JSON lines, or the common or combined format of Apache.'),
      sample: z
        .number()
        .min(0)
        .max(1)
        .default(1)
        .describe('Share of the exchanges logged, 0 to 1; errors are always logged.'),
      only: z
        .enum(['all', 'errors', 'slow', 'none'])
        .default('all')
        .describe('Which exchanges. `slow`: those over `slowerThan`, and errors.'),
      slowerThan: duration().prefault('1s').describe('With `only: slow`.'),
      headers: z
        .array(fieldName())
        .max(32)
        .default([])
        .describe(
          'Request fields that are logged. Cookie never is, nor Authorization, X-API-Key and others named after a secret.',
        ),
      file: z
        .string()
        .min(1)
        .optional()
        .describe('File of the access log; standard output without it. Reopened on SIGUSR2.'),
    })
    .prefault({})
    .describe('One line an exchange.'),
})
export type LoggingConfig = z.output<typeof loggingConfig>

export const tracingConfig = z.strictObject({
  traceparent: z
    .boolean()
    .default(false)
    .describe('Starts a W3C trace where a request brings none. One that comes is always passed on.'),
  otlp: z
    .strictObject({
      endpoint: httpUrl().describe('OTLP over HTTP: `http://collector:4318/v1/traces`.'),
      headers: z
        .record(fieldName(), secret())
        .default({})
        .describe('Fields of the export request, such as an API key.'),
      serviceName: z.string().min(1).default('fluxor-gateway').describe('`service.name` of the spans.'),
      samplePercent: percent().prefault(100).describe('Share of the traces started here that are exported.'),
    })
    .optional()
    .describe('Exports spans. Absent: none.'),
})
export type TracingConfig = z.output<typeof tracingConfig>
