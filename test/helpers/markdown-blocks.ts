/** A Markdown document taken apart: fenced blocks, links, anchors and code spans, each with its line. Enough of Markdown for our documents. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** A fenced block: ```` ```yaml compose ```` is of the language `yaml`, with the word `compose`. */
export interface Block {
  readonly language: string
  /** What stands behind the language. */
  readonly words: readonly string[]
  readonly code: string
  /** The line of the fence, counted from 1. */
  readonly line: number
}

export interface Mention {
  readonly text: string
  /** Counted from 1. */
  readonly line: number
}

export interface MarkdownDocument {
  /** Relative to the package: `docs/errors.md`. */
  readonly name: string
  /** Without HTML comments. */
  readonly text: string
  readonly blocks: readonly Block[]
  /** Targets as they are written. */
  readonly links: readonly Mention[]
  /** What `#…` may name, as GitHub makes it of headings. */
  readonly anchors: ReadonlySet<string>
  /** `code` in prose. */
  readonly spans: readonly Mention[]
}

/** Reads `name` below `folder`. @throws Error when a fence is never closed */
export async function readDocument (folder: string, name: string): Promise<MarkdownDocument> {
  return parseDocument(name, await readFile(join(folder, name), 'utf8'))
}

export function parseDocument (name: string, markdown: string): MarkdownDocument {
  const text = blanked(markdown, /<!--[^]*?-->/g)
  const { blocks, prose } = splitFences(name, text)
  const spans = mentions(prose, /(?<!`)(`+)(?!`)([^]*?[^`])\1(?!`)/g, 2)
  const linkText = blanked(prose, /(?<!`)(`+)(?!`)[^]*?[^`]\1(?!`)/g)
  const links = [
    ...mentions(linkText, /\]\(\s*<?([^\s<>()]+(?:\([^\s()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/g, 1),
    ...mentions(linkText, /^ {0,3}\[[^\]]+\]:\s*(\S+)/gm, 1),
    ...mentions(linkText, /<(?:a|img)\b[^>]*?(?:href|src)="([^"]+)"/g, 1)
  ]
  const anchors = new Set([...headingAnchors(prose), ...mentions(prose, /<[a-z]+\b[^>]*?(?:id|name)="([^"]+)"/g, 1).map(({ text }) => text)])
  return { name, text, blocks, links, anchors, spans }
}

/** The blocks, and the text with a blank line for each line of theirs, so that lines keep their numbers. */
function splitFences (name: string, text: string): { blocks: Block[], prose: string } {
  const blocks: Block[] = []
  const prose: string[] = []
  let open: { fence: string, indent: string, language: string, words: string[], code: string[], line: number } | null = null
  for (const [index, line] of text.split('\n').entries()) {
    const [, indent = '', fence = '', info = ''] = /^([ \t]*)(`{3,}|~{3,})([^`]*)$/.exec(line) ?? []
    if (open === null && fence === '') {
      prose.push(line)
      continue
    }
    prose.push('')
    if (open === null) {
      const [language = '', ...words] = info.trim().split(/\s+/)
      open = { fence, indent, language, words, code: [], line: index + 1 }
    } else if (fence.startsWith(open.fence) && info.trim() === '') {
      const { language, words, code, line: start } = open
      blocks.push({ language, words, code: code.join('\n'), line: start })
      open = null
    } else {
      open.code.push(line.startsWith(open.indent) ? line.slice(open.indent.length) : line.trimStart())
    }
  }
  if (open !== null) throw new Error(`${name}:${open.line} a block that is never closed`)
  return { blocks, prose: prose.join('\n') }
}

function mentions (text: string, pattern: RegExp, group: number): Mention[] {
  return [...text.matchAll(pattern)].map(match => ({ text: match[group]!.replaceAll(/\s+/g, ' ').trim(), line: lineAt(text, match.index) }))
}

function lineAt (text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length
}

/** The text with spaces in place of what matches; line feeds stay. */
function blanked (text: string, pattern: RegExp): string {
  return text.replaceAll(pattern, match => match.replaceAll(/[^\n]/g, ' '))
}

/** As GitHub does it: small letters, hyphens for spaces, no other punctuation; a heading that is there already gets a number. */
function headingAnchors (prose: string): string[] {
  const seen = new Map<string, number>()
  return [...prose.matchAll(/^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*$/gm)].map(([, heading = '']) => {
    const shown = heading.replaceAll(/!?\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll(/<[^>]+>/g, '').replaceAll(/(?<![\w`])_([^_`]+)_(?![\w`])/g, '$1')
    const slug = shown.toLowerCase().replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, '').replaceAll(' ', '-')
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    return count === 0 ? slug : `${slug}-${count}`
  })
}
