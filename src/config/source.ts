/**
 * The text of a config file: parsed as YAML 1.2 with a position for everything, variables put in. The only door to the
 * package `yaml`. Owns no schema but asks one question of it: whether a substituted value is wanted as text.
 */

import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  parseDocument,
  type Scalar,
  type YAMLMap,
} from 'yaml'
import { formatPath, type Path, type Problem } from './problems.ts'
import { retype, type SubstitutionContext, shield, substitute, unshield } from './substitution.ts'

const MAX_ALIASES = 100
const MAX_TEXT = 4 * 1024 * 1024
const MAX_DEPTH = 64
/** One mistake can make many. */
const MAX_SYNTAX_ERRORS = 10

export interface Place {
  readonly line: number
  readonly column: number
  /** How many parts of the path exist in the file. */
  readonly depth: number
}

/** What only the schema knows. */
export interface SourceHints {
  /** The value at a path must stay a text even if it looks like a number. */
  readonly wantsText: (path: Path) => boolean
  /** The value at a path must not be shown. */
  readonly isSecret: (path: Path) => boolean
}

export class ConfigSource {
  readonly fileName: string
  /** Plain data; undefined when the file is empty or cannot be parsed. */
  readonly data: unknown
  /** Values whose variables could not be put in: nothing else is worth saying about them. */
  readonly unresolved: Path[] = []
  readonly #found: Problem[] = []
  readonly #lines: string[]
  /** Lines that hold a secret: never quoted. */
  readonly #secretLines = new Set<number>()
  readonly #counter = new LineCounter()
  readonly #document: Document | undefined
  /** What the aliases stand for. */
  readonly #targets = new Map<Node, Node>()
  /** The pairs of the mappings that were asked for a key, by key. */
  readonly #pairs = new WeakMap<YAMLMap, Map<string, Pair>>()

  constructor(text: string, fileName: string, context: SubstitutionContext, hints: SourceHints) {
    this.fileName = fileName
    this.#lines = text.replace(/^\ufeff/, '').split(/\r?\n/)
    if (text.length > MAX_TEXT) {
      this.#problemAt(0, '', 'the file is larger than 4 MiB')
      return
    }
    const document = parseDocument(shield(text), {
      lineCounter: this.#counter,
      schema: 'core',
      prettyErrors: false,
      logLevel: 'error',
      uniqueKeys: false, // looked for below: the library compares each key with all before it
      // No `!!binary`, `!!set` or `!!timestamp`: what they make is no plain data.
      resolveKnownTags: false,
    })
    this.#document = document
    for (const { pos, code, message } of document.errors.slice(0, MAX_SYNTAX_ERRORS))
      this.#problemAt(pos[0], '', syntaxMessage(code, message))
    const broken = this.#found.length
    this.#walk(document.contents, [], new Map(), context, hints)
    if (broken > 0) {
      // The walk has told which lines hold secrets; what else it found may come of the broken syntax.
      this.#found.length = broken
      return
    }
    for (const { pos, code, message } of document.warnings.slice(0, MAX_SYNTAX_ERRORS))
      this.#problemAt(pos[0], '', syntaxMessage(code, message))
    try {
      this.data = document.toJS({ maxAliasCount: MAX_ALIASES }) ?? undefined
    } catch (error) {
      this.#problemAt(0, '', `not usable YAML: ${(error as Error).message}`)
    }
  }

  get problems(): Problem[] {
    return this.#found.map((problem) => ({ ...problem, source: this.lineText(problem.line) }))
  }

  /** Where a value stands; the nearest parent that exists when it does not. */
  locate(path: Path, at: 'key' | 'value' = 'value'): Place {
    let node: unknown = this.#resolve(this.#document?.contents)
    let offset = 0
    let depth = 0
    for (const part of path) {
      if (isMap(node)) {
        const pair = this.#pairsOf(node).get(String(part))
        if (pair === undefined) break
        const last = depth === path.length - 1
        const key = pair.key as Scalar
        const value = pair.value as Node | null
        // A value on a later line is a block: the key is the better place to point at.
        offset = last && at === 'value' && isScalar(value) && value.range ? value.range[0] : (key.range?.[0] ?? offset)
        node = this.#resolve(value)
      } else if (isSeq(node) && typeof part === 'number') {
        const item = node.items[part] as Node | undefined
        if (item === undefined) break
        offset = item.range?.[0] ?? offset
        node = this.#resolve(item)
      } else break
      depth++
    }
    const { line, col } = this.#counter.linePos(offset)
    return { line: line || 1, column: col || 1, depth }
  }

  /** Undefined when there is none, or when it holds a secret. */
  lineText(line: number): string | undefined {
    return this.#secretLines.has(line) ? undefined : this.#lines[line - 1]
  }

  #resolve(node: unknown): unknown {
    return isAlias(node) ? this.#targets.get(node) : node
  }

  #pairsOf(map: YAMLMap): Map<string, Pair> {
    let pairs = this.#pairs.get(map)
    if (pairs === undefined) {
      pairs = new Map()
      for (const pair of map.items) if (isScalar(pair.key)) pairs.set(String(pair.key.value), pair)
      this.#pairs.set(map, pairs)
    }
    return pairs
  }

  #problemAt(offset: number, path: string, message: string): void {
    const { line, col } = this.#counter.lineStarts.length > 0 ? this.#counter.linePos(offset) : { line: 1, col: 1 }
    this.#found.push({
      severity: 'error',
      file: this.fileName,
      line: line || 1,
      column: col || 1,
      path,
      message,
    })
  }

  /** Once through the tree, in the order of the file: anchors are what they are where an alias stands. */
  #walk(node: unknown, path: Path, anchors: Map<string, Node>, context: SubstitutionContext, hints: SourceHints): void {
    if (path.length > MAX_DEPTH) return
    if (isAlias(node)) {
      const target = anchors.get(node.source)
      if (target !== undefined) this.#targets.set(node, target)
      return
    }
    if (isNode(node) && node.anchor !== undefined) anchors.set(node.anchor, node)
    if (isMap(node)) {
      const seen = new Set<string>()
      node.items = node.items.filter(({ key, value }) => {
        if (!isScalar(key)) return true
        if (typeof key.value === 'string') key.value = unshield(key.value)
        const name = String(key.value)
        if (name === '__proto__') {
          this.#problemAt(key.range?.[0] ?? 0, formatPath([...path, name]), 'not possible as a key')
          return false
        }
        if (!seen.has(name)) seen.add(name)
        else this.#problemAt(key.range?.[0] ?? 0, '', 'this key stands here twice')
        this.#walk(value, [...path, name], anchors, context, hints)
        return true
      })
    } else if (isSeq(node)) {
      node.items.forEach((item, i) => {
        this.#walk(item, [...path, i], anchors, context, hints)
      })
    } else if (isScalar(node)) {
      this.#substituteScalar(node, path, context, hints)
    }
  }

  #substituteScalar(node: Scalar, path: Path, context: SubstitutionContext, hints: SourceHints): void {
    if (node.range && hints.isSecret(path)) {
      const last = this.#counter.linePos(node.range[1]).line
      for (let line = this.#counter.linePos(node.range[0]).line; line <= last; line++) this.#secretLines.add(line)
    }
    if (typeof node.value === 'string' && node.value.includes('$')) {
      const text = substitute(unshield(node.value), context, (message) => {
        this.#problemAt(node.range?.[0] ?? 0, formatPath(path), message)
        this.unresolved.push(path)
      })
      // Quotes say that a text is meant; so does a key that takes nothing else, as with a password of digits.
      node.value = node.type === 'PLAIN' && !hints.wantsText(path) ? retype(text) : text
    }
  }
}

function syntaxMessage(code: string, message: string): string {
  const text = unshield(message.split('\n')[0]!).replace(/\.$/, '')
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'a tab in the indentation: YAML takes spaces only'
    case 'MULTIPLE_DOCS':
      return 'a second document ("---"): the file must hold one'
    case 'TAG_RESOLVE_FAILED':
      return 'a tag ("!…") that is not known here: write the value without it'
    default:
      return `not valid YAML: ${text.charAt(0).toLowerCase()}${text.slice(1)}`
  }
}
