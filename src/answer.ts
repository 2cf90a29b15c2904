/**
 * How the gateway itself answers: whole answers, refusals and its own failures, each in one write, with the fields that
 * every answer carries. What a gate may say stands here too. Asked by the pipeline and by the built-in answers.
 */

import type { Exchange } from './exchange.ts'
import { grpcFields, isGrpc } from './http/grpc.ts'
import { LOCAL_REPLIES, LocalReply } from './local-reply.ts'
import type { Services } from './services.ts'

/** Lets the exchange on (undefined), answers it with a refusal, or says that it is being answered. */
export type Gate = (x: Exchange) => GateResult | Promise<GateResult>
export type GateResult = LocalReply | undefined | typeof ANSWERED
export const ANSWERED = Symbol('answered')

/** Runs an exchange that matched the route. */
export type RouteHandler = (x: Exchange) => void

/** Fields that every answer to this exchange carries. */
export function ownFields(x: Exchange): string {
  return `X-Request-ID: ${x.requestId}\r\n${x.responseFields}`
}

/** A whole answer by the gateway that is no refusal. */
export function answer(x: Exchange, status: number, fields: string, body: Uint8Array | string): typeof ANSWERED {
  x.status = status
  x.client.respond(status, fields + ownFields(x), body)
  return ANSWERED
}

/** Answers with a refusal; when an answer has begun already, all that is left is to break it off. */
export function refuse(x: Exchange, reply: LocalReply): void {
  x.reply = reply
  if (x.client.refused !== undefined) {
    x.client.refused(reply)
    return
  }
  if (x.client.headSent) {
    x.client.destroy()
    return
  }
  if (reply.close) x.client.closeAfter()
  x.status = reply.status
  if (isGrpc(x.request)) {
    // Its status is for logs and metrics: the client reads it from the fields (of an answer without a body).
    const fields = grpcFields(reply, LOCAL_REPLIES[reply.code].title)
    x.client.respond(200, `Content-Type: application/grpc\r\n${fields}${reply.fields}${ownFields(x)}`, '')
    return
  }
  const body = reply.body(x.requestId)
  x.client.respond(reply.status, `Content-Type: application/problem+json\r\n${reply.fields}${ownFields(x)}`, body)
}

/** Something is broken in the gateway: the client gets an honest 500, the log the reason. */
export function fail(x: Exchange, error: unknown, services: Services): void {
  services.logger.error('an exchange failed in the gateway', {
    err: error,
    requestId: x.requestId,
    route: x.route?.name,
  })
  x.abort()
  refuse(x, new LocalReply('INTERNAL'))
}
