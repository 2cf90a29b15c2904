/** What leaves a socket, and in how many writes: a real pair of sockets. */

import { once } from 'node:events'
import net from 'node:net'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { Outbox } from '../../../src/http1/outbox.ts'
import { collectGarbage } from '../../support/collect-garbage.ts'

let server: net.Server
let client: net.Socket
let peer: net.Socket
let writes: number
let outbox: Outbox

beforeEach(async () => {
  server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  ;[peer] = (await once(server, 'connection')) as [net.Socket]
  writes = 0
  const write = client.write.bind(client) as typeof client.write
  client.write = ((...args: Parameters<typeof write>) => {
    writes++
    return write(...args)
  }) as typeof client.write
  outbox = new Outbox(client)
})
afterEach(() => {
  client.destroy()
  peer.destroy()
  server.close()
})

const turnEnds = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)))

async function received(): Promise<Buffer> {
  client.end()
  const chunks: Buffer[] = []
  for await (const chunk of peer) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

it('head and small pieces leave in one write', async () => {
  outbox.text('HTTP/1.1 200 OK\r\n\r\n')
  outbox.bytes(Buffer.from([0, 128, 255]))
  outbox.bytes(Buffer.from('abc'))
  outbox.flush()
  outbox.text('d')
  outbox.flush()
  expect([writes, outbox.bytesTaken]).toEqual([0, 26])
  await turnEnds()
  expect(writes).toBe(1)
  expect((await received()).toString('latin1')).toBe('HTTP/1.1 200 OK\r\n\r\n\0\x80\xffabcd')
})

it('what is due leaves at once when something else is to leave, and before the end', async () => {
  outbox.text('head')
  outbox.flush()
  outbox.send()
  expect(writes).toBe(1)
  await turnEnds()
  expect(writes).toBe(1)
  outbox.text(', last')
  outbox.flush()
  outbox.end()
  expect((await received()).toString()).toBe('head, last')
})

it('a turn that has much to write does not keep it all to its end', async () => {
  const others = Array.from({ length: 63 }, () => new Outbox(new net.Socket().destroy()))
  outbox.text('first')
  outbox.flush()
  for (const other of others) {
    expect(writes).toBe(0)
    other.text('x')
    other.flush()
  }
  expect(writes).toBe(1)
})

it('more than is merged leaves without waiting', () => {
  outbox.text('x'.repeat(17 * 1024))
  outbox.flush()
  expect(writes).toBe(1)
})

it('a socket that was destroyed in the meantime harms nobody', async () => {
  const dead = new Outbox(new net.Socket().destroy())
  dead.text('x')
  dead.flush()
  outbox.text('y')
  outbox.flush()
  await turnEnds()
  expect((await received()).toString()).toBe('y')
})

it('a piece belongs to its owner again at once, whatever its size', async () => {
  const parts: Buffer[] = []
  for (const [i, length] of [5, 16 * 1024, 16 * 1024 + 1, 70_000, 64 * 1024, 1, 200_000].entries()) {
    const piece = Buffer.alloc(length, i + 1)
    parts.push(Buffer.from(piece))
    outbox.bytes(piece)
    piece.fill(0xee)
  }
  outbox.text('end')
  outbox.send()
  const expected = Buffer.concat([...parts, Buffer.from('end')])
  expect(outbox.bytesTaken).toBe(expected.length)
  expect((await received()).equals(expected)).toBe(true)
})

it('buffers are used again, and only when the kernel has them', async () => {
  const parts: Buffer[] = []
  const all = (async () => {
    const chunks: Buffer[] = []
    for await (const chunk of peer) chunks.push(chunk as Buffer)
    return Buffer.concat(chunks)
  })()
  for (let i = 0; i < 300; i++) {
    const piece = Buffer.alloc(64 * 1024, i)
    parts.push(piece)
    outbox.bytes(piece)
    if (!outbox.ready) await once(client, 'drain')
  }
  client.end()
  expect((await all).equals(Buffer.concat(parts))).toBe(true)
})

it('says when the peer reads slower than we write', async () => {
  peer.pause()
  expect(outbox.ready).toBe(true)
  outbox.bytes(Buffer.alloc(4 << 20))
  expect(outbox.ready).toBe(false)
})

it('a piece that lasts leaves from where it lies, with the head, in one system call', async () => {
  const piece = Buffer.alloc(100_000, 'x')
  const calls: unknown[][] = []
  const writev = client._writev!.bind(client)
  client._writev = (chunks, done) => {
    calls.push(chunks.map(({ chunk }) => chunk))
    writev(chunks, done)
  }
  outbox.text('head')
  outbox.bytes(piece, true)
  expect(calls).toEqual([])
  await turnEnds()
  expect(calls).toEqual([['head', piece]])
  expect(calls[0]![1]).toBe(piece)
  expect(outbox.bytesTaken).toBe(100_004)
  expect((await received()).equals(Buffer.concat([Buffer.from('head'), piece]))).toBe(true)
})

it('nothing overtakes a piece that lasts', async () => {
  const [first, second, small] = [Buffer.alloc(70_000, 'a'), Buffer.alloc(70_000, 'b'), Buffer.from('c')]
  outbox.bytes(first, true)
  outbox.text('-')
  outbox.bytes(second, true)
  outbox.bytes(small)
  outbox.bytes(first, true)
  outbox.bytes(second)
  outbox.bytes(first, true)
  outbox.end()
  expect(outbox.bytesTaken).toBe(350_002)
  expect((await received()).equals(Buffer.concat([first, Buffer.from('-'), second, small, first, second, first]))).toBe(
    true,
  )
})

it('over a thousand busy connections do not keep a turn from ending', async () => {
  const BUSY = 1500
  const clients: net.Socket[] = []
  let answers = 0
  server.on('connection', (socket) => {
    const answering = new Outbox(socket)
    socket.on('data', () => {
      answers++
      answering.text('answer')
      answering.flush()
    })
  })
  try {
    for (let i = 0; i < BUSY; i++) {
      const one = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
      one.on('data', () => one.write('next'))
      clients.push(one)
      await once(one, 'connect')
    }
    for (const one of clients) one.write('first')
    let most = 0
    for (let turn = 0; turn < 20; turn++) {
      const before = answers
      await new Promise(setImmediate)
      most = Math.max(most, answers - before)
    }
    expect(answers).toBeGreaterThan(2 * BUSY)
    expect(most).toBeLessThanOrEqual(1024 + BUSY)
  } finally {
    for (const one of clients) one.destroy()
  }
})

it('a turn that wrote to thousands keeps none of them alive', async () => {
  const gone: WeakRef<Outbox>[] = []
  const fill = () => {
    for (let i = 0; i < 3000; i++) {
      const one = new Outbox(new net.Socket().destroy())
      one.text('x')
      one.flush()
      gone.push(new WeakRef(one))
    }
  }
  fill()
  await turnEnds()
  collectGarbage()
  expect(gone.filter((one) => one.deref() !== undefined).length).toBeLessThanOrEqual(64)
})
