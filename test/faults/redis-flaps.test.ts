/** A Redis that came back and does not answer: when its door closes then, the subscription that is lost must not end the process. */

import { createServer } from 'node:net'
import { expect, it } from 'vitest'
import { openRedis } from '../../src/redis.ts'

it('a door that closes while its subscriber subscribes again rejects nothing that nobody waits for', async () => {
  let subscriptions = 0
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      const text = chunk.toString('latin1').toLowerCase()
      const commands = text.split(/(?=\*\d+\r\n\$\d+\r\n)/)
      for (const command of commands) {
        if (!command.includes('\r\nsubscribe\r\n')) {
          socket.write(command.includes('\r\ninfo\r\n') ? '$9\r\nloading:0\r\n' : '+OK\r\n')
          continue
        }
        if (++subscriptions > 1) continue // never answered: the door closes in between
        socket.write('*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n')
        setTimeout(() => socket.destroy(), 20)
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const lost: unknown[] = []
  const listener = (reason: unknown) => lost.push(reason)
  process.on('unhandledRejection', listener)
  const door = openRedis('main', {
    url: `redis://127.0.0.1:${port}`,
    commandTimeout: 200,
    connectTimeout: 500,
  } as Parameters<typeof openRedis>[1])
  try {
    const subscriber = door.subscriber()
    subscriber.on('ready', () => void subscriber.subscribe('c').catch(() => {}))
    const deadline = performance.now() + 5000
    while (subscriptions < 2 && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20))
    expect(subscriptions).toBeGreaterThanOrEqual(2)
    door.close()
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(lost).toEqual([])
  } finally {
    door.close()
    server.close()
    process.removeListener('unhandledRejection', listener)
  }
})
