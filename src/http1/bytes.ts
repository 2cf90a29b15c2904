/** Bytes to strings on the data path. `latin1Slice` is Node's own fast form of `toString('latin1', …)`; its types leave it out. */

interface Latin1Buffer {
  latin1Slice(start: number, end: number): string
}

export function latin1(bytes: Uint8Array, start: number, end: number): string {
  return (bytes as unknown as Latin1Buffer).latin1Slice(start, end)
}

/**
 * The same text in one piece. V8 keeps what was put together as a tree and walks it at every write; asking for a
 * character makes it flat. For text that is made once and written often.
 */
export function flat(text: string): string {
  text.charCodeAt(0)
  return text
}

/** Without the optional white space (SP, HTAB: RFC 9110 §5.6.3) around it. `trim()` would take more, such as a no-break space. */
export function trimOws(text: string): string {
  let start = 0
  let end = text.length
  while (start < end && isOws(text.charCodeAt(start))) start++
  while (end > start && isOws(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

function isOws(code: number): boolean {
  return code === 32 || code === 9
}
