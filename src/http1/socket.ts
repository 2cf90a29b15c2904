/**
 * Reading from sockets without an allocation a read: all plain sockets of a thread read into one buffer, which whoever
 * gets the bytes has emptied or copied when its callback returns. libuv fills it right before the callback, so no two
 * sockets meet in it. TLS sockets cannot do this and give their own buffers.
 */

import net from 'node:net'
import { READ_BUFFER_BYTES } from './outbox.ts'

/** @returns false to pause reading; `socket.resume()` goes on. */
export type OnBytes = (bytes: Uint8Array, length: number) => boolean

let shared: Buffer | undefined

/** Options for `net.connect` that read into the shared buffer. */
export function readInto(onBytes: OnBytes): { onread: net.OnReadOpts } {
  shared ??= Buffer.allocUnsafeSlow(READ_BUFFER_BYTES)
  return { onread: { buffer: shared, callback: (length, buffer) => onBytes(buffer as Buffer, length) } }
}

interface HandleOwner {
  _handle: object | null
}

/**
 * The accepted socket again, reading into the shared buffer. `net.Server` has no option for that, so the connection's
 * handle moves to a socket made with one (as `child_process` and `cluster` do). The server must be made with
 * `pauseOnConnect`. Where Node keeps the handle elsewhere, or for TLS, the socket itself is used with its `data` events.
 */
export function adoptSocket(accepted: net.Socket, onBytes: OnBytes): net.Socket {
  const owner = accepted as unknown as HandleOwner
  const handle = owner._handle
  if (!(handle instanceof Object) || accepted.constructor !== net.Socket) return listen(accepted, onBytes)
  owner._handle = null
  const options = { handle, allowHalfOpen: true, noDelay: true, ...readInto(onBytes) }
  const socket = new net.Socket(options as net.SocketConstructorOpts)
  socket.resume()
  return socket
}

function listen(socket: net.Socket, onBytes: OnBytes): net.Socket {
  socket.on('data', (chunk: Buffer) => {
    if (!onBytes(chunk, chunk.length)) socket.pause()
  })
  socket.resume()
  return socket
}
