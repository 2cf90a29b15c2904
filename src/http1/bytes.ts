/** Bytes to strings on the data path. `latin1Slice` is Node's own fast form of `toString('latin1', …)`; its types leave it out. */

interface Latin1Buffer {
  latin1Slice(start: number, end: number): string
}

export function latin1(bytes: Uint8Array, start: number, end: number): string {
  return (bytes as unknown as Latin1Buffer).latin1Slice(start, end)
}
