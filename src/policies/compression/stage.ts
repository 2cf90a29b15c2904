/**
 * The stage between an answer and its client that compresses. It decides when the head comes and then does one of three
 * things: lets everything through, collects a small body and compresses it at once, or streams through zlib at the pace of
 * the client. One object an exchange that may be compressed; the decision itself is policy.ts.
 */

import type { BrotliCompress, Gzip, ZstdCompress } from 'node:zlib'
import type { BodySource, Exchange, ResponseSink } from '../../exchange.ts'
import type { Encoder } from './encoders.ts'

/** A body known to be this small is compressed in one go: no stream, no thread, and Content-Length stays known. */
export const MAX_AT_ONCE_BYTES = 64 * 1024

export interface Decision {
  readonly fields: string
  readonly encoder: Encoder
}

export interface StageHost {
  /** Undefined: leave the body alone. `fields` then still may need Vary: see `plainFields`. */
  decide(x: Exchange, status: number, fields: string, length: number): Decision | undefined
  plainFields(x: Exchange, status: number, fields: string, length: number): string
  /** False when too many streams run already: the answer goes out as it is. */
  takeStream(): boolean
  releaseStream(): void
}

const UNDECIDED = 0
const PLAIN = 1
const COLLECTING = 2
const STREAMING = 3
const DONE = 4

type Transform = Gzip | BrotliCompress | ZstdCompress

export class CompressionStage implements ResponseSink, BodySource {
  readonly #x: Exchange
  readonly #sink: ResponseSink
  readonly #host: StageHost
  #source: BodySource | null = null
  #state = UNDECIDED
  #status = 0
  #decision: Decision | undefined
  #whole: Buffer | undefined
  #received = 0
  #stream: Transform | undefined
  /** The client takes more. */
  #wanted = true
  #trailers = ''

  constructor(x: Exchange, sink: ResponseSink, host: StageHost) {
    this.#x = x
    this.#sink = sink
    this.#host = host
  }

  get source(): BodySource | null {
    return this.#source
  }

  set source(source: BodySource | null) {
    this.#source = source
    // A plain answer needs nobody between the client and where the body comes from.
    this.#sink.source = this.#state === STREAMING ? this : source
  }

  informational(status: number, fields: string): void {
    this.#sink.informational(status, fields)
  }

  head(status: number, fields: string, length: number): void {
    const decision = this.#host.decide(this.#x, status, fields, length)
    const bodiless = this.#x.request.method === 'HEAD'
    if (
      decision === undefined ||
      (length < 0 || length > MAX_AT_ONCE_BYTES ? !bodiless && !this.#host.takeStream() : false)
    ) {
      this.#state = PLAIN
      this.#sink.head(status, this.#host.plainFields(this.#x, status, fields, length), length)
      return
    }
    if (bodiless) {
      // As the GET would be answered, whose length is not known without the body (RFC 9110 §9.3.2).
      this.#state = PLAIN
      this.#sink.head(status, decision.fields, -1)
    } else if (length >= 0 && length <= MAX_AT_ONCE_BYTES) {
      this.#state = COLLECTING
      this.#status = status
      this.#decision = decision
      this.#whole = Buffer.allocUnsafe(length)
    } else {
      this.#state = STREAMING
      this.#sink.head(status, decision.fields, -1)
      this.#open(decision.encoder.stream(Math.max(0, length)))
    }
  }

  #open(stream: Transform): void {
    this.#stream = stream
    this.#sink.source = this
    stream.on('data', (chunk: Buffer) => {
      if (this.#state !== STREAMING) return
      if (!this.#sink.write(chunk)) {
        this.#wanted = false
        stream.pause()
      } else this.#sink.flush()
    })
    stream.on('end', () => {
      if (this.#state !== STREAMING) return
      this.#close()
      this.#sink.end(this.#trailers)
    })
    stream.on('drain', () => {
      if (this.#state === STREAMING) this.#source?.resume()
    })
    stream.on('error', () => {
      if (this.#state !== STREAMING) return
      this.#close()
      this.#source?.cancel()
      this.#sink.abort()
    })
    // The client may leave without a word to its source.
    this.#x.onFinish(() => this.#close())
  }

  #close(): void {
    if (this.#state === DONE) return
    this.#state = DONE
    this.#stream?.destroy()
    this.#host.releaseStream()
  }

  write(chunk: Uint8Array): boolean {
    switch (this.#state) {
      case PLAIN:
        return this.#sink.write(chunk)
      case COLLECTING:
        if (this.#received + chunk.length > this.#whole!.length) return this.#broken()
        this.#whole!.set(chunk, this.#received)
        this.#received += chunk.length
        return true
      case STREAMING:
        // The chunk's memory is the caller's again when we return: zlib works later, in another thread.
        return this.#stream!.write(Buffer.from(chunk)) && this.#wanted
      default:
        return true
    }
  }

  #broken(): boolean {
    this.#state = DONE
    this.#sink.abort()
    return true
  }

  end(trailers: string): void {
    switch (this.#state) {
      case PLAIN:
        this.#sink.end(trailers)
        break
      case COLLECTING: {
        const { encoder, fields } = this.#decision!
        if (this.#received < this.#whole!.length) {
          this.#broken()
          return
        }
        this.#state = DONE
        const encoded = encoder.now(this.#whole!)
        this.#sink.head(this.#status, fields, encoded.length)
        this.#sink.write(encoded)
        this.#sink.end(trailers)
        break
      }
      case STREAMING:
        this.#trailers = trailers
        this.#stream!.end()
        break
    }
  }

  flush(): void {
    if (this.#state === PLAIN) this.#sink.flush()
    // Whoever sends in pieces of unknown length wants them to arrive: what zlib holds back leaves with them.
    else if (this.#state === STREAMING && !this.#stream!.writableNeedDrain) this.#stream!.flush()
  }

  abort(): void {
    if (this.#state === STREAMING) this.#close()
    else if (this.#state === DONE) return
    this.#state = DONE
    this.#sink.abort()
  }

  // The source of a client that gets a compressed stream.

  pause(): void {
    this.#wanted = false
    this.#stream?.pause()
  }

  resume(): void {
    this.#wanted = true
    this.#stream?.resume()
    if (this.#state === STREAMING && !this.#stream!.writableNeedDrain) this.#source?.resume()
  }

  cancel(): void {
    if (this.#state === STREAMING) this.#close()
    this.#source?.cancel()
  }
}
