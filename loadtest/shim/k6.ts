/** `k6` for the shim. Nobody sleeps: the time is only added up. */

type Checks = Record<string, (value: unknown) => unknown>

/** By name of the check: how often it held, and how often not. */
export const CHECKS = new Map<string, { passes: number; fails: number }>()
export const slept = { seconds: 0 }

export function check(value: unknown, checks: Checks): boolean {
  let all = true
  for (const [name, holds] of Object.entries(checks)) {
    const counts = CHECKS.get(name) ?? { passes: 0, fails: 0 }
    CHECKS.set(name, counts)
    if (holds(value)) counts.passes++
    else {
      counts.fails++
      all = false
    }
  }
  return all
}

export function sleep(seconds: number): void {
  if (!(seconds >= 0)) throw new TypeError(`sleep(${seconds})`)
  slept.seconds += seconds
}

export const group = <T>(_name: string, body: () => T): T => body()

export function fail(message?: string): never {
  throw new Error(message ?? 'fail()')
}
