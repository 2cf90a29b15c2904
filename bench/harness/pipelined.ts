/** Many requests, each of them another, over a few kept connections: what wrk cannot send. */

import { connect } from 'node:net'

const CONNECTIONS = 64
/** Requests under way on each connection. */
const WINDOW = 16
const HEAD = 'HTTP/1.1 '

/**
 * Sends `count` requests and awaits their answers, which have no body. Rejects when one has another status.
 *
 * @param textOf the whole text of request n
 */
export async function sendAll(
  port: number,
  count: number,
  textOf: (n: number) => string,
  status = '204',
): Promise<void> {
  let next = 0
  await Promise.all(Array.from({ length: Math.min(CONNECTIONS, count) }, one))

  function one(): Promise<void> {
    return new Promise((resolve, reject) => {
      let waiting = 0
      let rest = ''
      const socket = connect({ port, host: '127.0.0.1', noDelay: true })
      const fill = () => {
        let text = ''
        for (; waiting < WINDOW && next < count; waiting++) text += textOf(next++)
        if (text !== '') socket.write(text, 'latin1')
        if (waiting > 0) return
        socket.destroy()
        resolve()
      }
      socket.on('connect', fill)
      socket.on('error', reject)
      socket.on('close', () => reject(new Error('the gateway has closed a connection')))
      socket.on('data', (chunk) => {
        const text = rest + chunk.toString('latin1')
        let end = 0
        for (
          let at = text.indexOf(HEAD);
          at >= 0 && at + HEAD.length + 3 <= text.length;
          at = text.indexOf(HEAD, end)
        ) {
          end = at + HEAD.length + 3
          const got = text.slice(end - 3, end)
          if (got !== status) return void reject(new Error(`an answer was ${got}, not ${status}`))
          waiting--
        }
        rest = text.slice(Math.max(end, text.length - HEAD.length - 2))
        if (waiting < WINDOW / 2) fill()
      })
    })
  }
}
