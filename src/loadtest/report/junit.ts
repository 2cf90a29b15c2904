/** Verdicts as JUnit XML, for CI systems: one test case an objective, and one for the generator itself. */

import type { LoadResult } from '../result.ts'

export interface JunitCase {
  readonly name: string
  readonly seconds?: number
  readonly failure?: string
  readonly skipped?: string
}

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;' }

/** Also drops what XML 1.0 cannot carry at all: control characters. */
export const escapeXml = (text: string): string =>
  text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, '').replace(/[&<>"']/g, (char) => ENTITIES[char]!)

export function junitXml(suite: string, startedAt: string, cases: readonly JunitCase[]): string {
  const name = escapeXml(suite)
  const seconds = cases.reduce((total, one) => total + (one.seconds ?? 0), 0).toFixed(3)
  const failures = cases.filter(({ failure }) => failure !== undefined).length
  const skipped = cases.filter((one) => one.skipped !== undefined).length
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites tests="${cases.length}" failures="${failures}" time="${seconds}">`,
    `  <testsuite name="${name}" tests="${cases.length}" failures="${failures}" skipped="${skipped}" time="${seconds}" timestamp="${startedAt}">`,
    ...cases.map((one) => testCase(name, one)),
    '  </testsuite>',
    '</testsuites>',
    '',
  ].join('\n')
}

function testCase(suite: string, { name, seconds = 0, failure, skipped }: JunitCase): string {
  const head = `    <testcase classname="${suite}" name="${escapeXml(name)}" time="${seconds.toFixed(3)}"`
  if (failure !== undefined) return `${head}><failure message="${escapeXml(failure)}"/></testcase>`
  return skipped === undefined ? `${head}/>` : `${head}><skipped message="${escapeXml(skipped)}"/></testcase>`
}

export function junitOf(result: LoadResult): string {
  const invalid = result.verdict === 'INVALID'
  return junitXml(`loadtest ${result.name}`, result.startedAt, [
    {
      name: 'the generator kept its schedule',
      seconds: result.plan.durationSec,
      failure: invalid ? result.reasons.join('; ') : undefined,
    },
    // Of an invalid run no objective was measured.
    ...result.slos.map(({ text, measured, passed }) => ({
      name: text,
      failure: invalid || passed ? undefined : `${text} was not met: ${measured}`,
      skipped: invalid ? 'the run was invalid' : undefined,
    })),
  ])
}
