/**
 * Whether a gateway has come back to where it began: no place taken, an even ledger, no connection of a client open, and as
 * many descriptors as before. Whatever a fault did, this must hold a moment later.
 */

import { readdirSync } from 'node:fs'
import { expect } from 'vitest'
import { sumOf, type TestGateway } from './gateway.ts'
import { send } from './raw-client.ts'

export interface Rest {
  ccu: number | undefined
  streams: number | undefined
  queue: number | undefined
  skew: number | undefined
  connections: number | undefined
  descriptors: number
}

/** The metrics, asked over a connection of its own that closes: a kept one would count as a descriptor, or not. */
export async function metricsText(gateway: TestGateway): Promise<string> {
  const request = 'GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n'
  return (await send(gateway.adminPort, request)).bytes.toString('latin1')
}

export async function measure(gateway: TestGateway): Promise<Rest> {
  const text = await metricsText(gateway)
  return {
    ccu: sumOf(text, 'current_ccu'),
    streams: sumOf(text, 'current_streams'),
    queue: sumOf(text, 'queue_size'),
    skew: sumOf(text, 'fluxor_ccu_ledger_skew'),
    connections: sumOf(text, 'fluxor_connections'),
    descriptors: readdirSync(`/proc/${gateway.pid}/fd`).length,
  }
}

/** Waits until the gateway is at rest again. @param before taken when it was, connections to upstreams aside */
export async function expectAtRest(gateway: TestGateway, before: Rest, timeoutMs = 8000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const now = await measure(gateway)
    const even = now.ccu === 0 && now.streams === 0 && now.queue === 0 && now.skew === 0 && now.connections === 0
    if (even && now.descriptors <= before.descriptors) return
    if (performance.now() > deadline) {
      expect(now, 'the gateway comes to rest').toEqual({
        ...before,
        ccu: 0,
        streams: 0,
        queue: 0,
        skew: 0,
        connections: 0,
      })
      return
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
