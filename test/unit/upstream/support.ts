import { Endpoint, type EndpointOptions } from '../../../src/upstream/endpoint.ts'

/** Mulberry32: the same numbers for the same seed. */
export function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

export function endpoint(host = '10.0.0.1', options: EndpointOptions = {}, nowMs = 0): Endpoint {
  return new Endpoint({ host, port: 8080, secure: false }, options, nowMs)
}
