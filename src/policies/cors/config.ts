/** Keys of a route's `cors` (the CORS protocol of the Fetch standard). */

import { z } from 'zod'
import { duration, fieldName } from '../../config/types.ts'

/** `https://app.example.com`, `https://*.example.com`, `*`, or `null` (sandboxed pages and files). */
const ORIGIN = /^(?:\*|null|[a-z][a-z0-9+.-]*:\/\/(?:\*\.)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?)$/

export const corsConfig = z
  .strictObject({
    origins: z
      .array(
        z.string().regex(ORIGIN, {
          error: 'expected an origin such as https://app.example.com, without a path; https://*.example.com; or *',
        }),
      )
      .min(1)
      .describe('Origins that may read answers: exact, with `*.` for every subdomain, or `*` for all.'),
    methods: z
      .array(z.string().regex(/^[A-Z]+$/, { error: 'expected a method in capital letters' }))
      .default(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'])
      .describe('Methods allowed in a preflight.'),
    headers: z
      .array(fieldName())
      .default(['*'])
      .describe('Request headers allowed in a preflight. `*` allows whatever is asked for.'),
    exposeHeaders: z.array(fieldName()).default([]).describe('Response headers that scripts may read.'),
    maxAge: duration().prefault('10m').describe('How long browsers may keep a preflight answer; 0 forbids it.'),
    credentials: z
      .boolean()
      .default(false)
      .describe('Allows cookies and authorization. Not together with the origin `*`.'),
  })
  .superRefine((cors, context) => {
    if (!cors.credentials) return
    if (cors.exposeHeaders.includes('*')) {
      const message = 'with credentials browsers take * for a header of that name; list the headers'
      context.addIssue({ code: 'custom', message, path: ['exposeHeaders'] })
    }
    cors.origins.forEach((origin, i) => {
      if (origin === '*' || origin === 'null') {
        const message = `the origin ${origin} with credentials would let any page act as its visitor`
        context.addIssue({ code: 'custom', message, path: ['origins', i] })
      }
    })
  })
export type CorsConfig = z.output<typeof corsConfig>
