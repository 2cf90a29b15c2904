/** Waiting for what comes about by itself, never for a time. */

export type Condition = () => boolean | Promise<boolean>

const ASK_AGAIN_MS = 10

/**
 * Asks until it is so. Throws when it was not in time.
 * @param otherwise what the error says, beside the time
 */
export async function within(timeoutMs: number, done: Condition, otherwise: () => string = () => ''): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error(`it did not come about in ${timeoutMs} ms\n${otherwise()}`)
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS))
  }
}
