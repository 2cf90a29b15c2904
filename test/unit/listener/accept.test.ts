/** New connections beside busy ones: how many turns of the event loop they wait until they are accepted. */

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { Worker } from 'node:worker_threads'
import { expect, it } from 'vitest'
import { createGateway } from '../../../src/index.ts'
import { SHARES_PORTS } from '../../../src/listener/fast.ts'

const CLIENTS = 64

/** Opens connections and says when the kernel has them all; whoever listens need not have accepted them. */
const CONNECT = `
  const { connect } = require('node:net')
  const { workerData: { port, clients, connected } } = require('node:worker_threads')
  for (let i = 0; i < clients; i++) {
    connect(port, '127.0.0.1', () => { Atomics.add(connected, 0, 1); Atomics.notify(connected, 0) }).on('error', () => {})
  }
`

it('64 connections that wait are accepted in a few turns of the loop, not in 64', async () => {
  const gateway = createGateway({
    version: 1,
    server: { listen: [{ address: '127.0.0.1:0' }], admin: { address: '127.0.0.1:0' } },
    logging: { level: 'error' },
    routes: [{ match: { pathPrefix: '/' }, home: {} }],
  })
  let accepted = 0
  const count = () => accepted++
  await gateway.start()
  subscribe('net.server.socket', count)
  const connected = new Int32Array(new SharedArrayBuffer(4))
  const worker = new Worker(CONNECT, {
    eval: true,
    workerData: { port: gateway.ports[0], clients: CLIENTS, connected },
  })
  try {
    for (let seen = 0; seen < CLIENTS; seen = Atomics.load(connected, 0)) Atomics.wait(connected, 0, seen)
    expect(accepted).toBe(0)
    let turns = 0
    for (; accepted < CLIENTS; turns++) await new Promise(setImmediate)
    expect(turns).toBeLessThanOrEqual(SHARES_PORTS ? 24 : CLIENTS)
  } finally {
    unsubscribe('net.server.socket', count)
    await worker.terminate()
    await gateway.close()
  }
})
