/**
 * Makes a thread quick before its run begins. The first hundred requests of a cold process cost ten to twenty times what
 * later ones do: at thousands a second they would come late, and be counted as the service's latency. So they go to a
 * server of the thread's own, and the service under test sees none of them.
 */

import { createServer } from 'node:net'
import { Connections } from './connections.ts'
import { createRecording, recordEnd } from './recording.ts'

/** After so many a request costs what it will cost. */
const REQUESTS = 1200
const AT_ONCE = 24
/** A machine that is busy must not keep the run waiting. */
const LONGEST_MS = 2000
const ANSWER = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}'

/** Never rejects: a run that begins cold is still a run. Resolves to the requests made. */
export async function warmUp(requests = REQUESTS): Promise<number> {
  // One request at a time is on a connection, and it fits into a packet.
  const server = createServer((socket) => {
    socket.on('data', () => socket.write(ANSWER))
    socket.on('error', () => {})
  })
  const listening = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(0, '127.0.0.1', () => resolve(true))
  })
  if (!listening) return 0
  const { port } = server.address() as { port: number }
  const beganMs = performance.now()
  const now = () => performance.now() - beganMs
  const recording = createRecording(LONGEST_MS, 1)
  const plan = { origin: `http://127.0.0.1:${port}`, path: '/', method: 'GET', headers: {}, body: null }
  const over = Promise.withResolvers<void>()
  let [sent, ended] = [0, 0]
  const next = () => {
    if (sent >= requests || now() > LONGEST_MS) return
    sent++
    connections.send({ target: 0, dueMs: now() }, -1, now())
  }
  const options = { requests: [plan], maxConnections: AT_ONCE, timeoutMs: LONGEST_MS, expect: [], insecure: false, now }
  const connections = new Connections(options, ({ target, dueMs }, endMs, status, outcome, error) => {
    recordEnd(recording, { target, dueMs, endMs, status, outcome, error })
    ended++
    next()
    if (ended === sent) over.resolve()
  })
  for (let i = 0; i < AT_ONCE; i++) next()
  const timer = setTimeout(over.resolve, LONGEST_MS)
  await over.promise
  clearTimeout(timer)
  await connections.close()
  await new Promise((resolve) => server.close(resolve))
  return ended
}
