/**
 * A terminal as one page that is drawn again and again, and given back as it was.
 */
import { emitKeypressEvents, type Key } from 'node:readline'
import type { ReadStream } from 'node:tty'
import { stripVTControlCharacters } from 'node:util'
import { onlyColours, type CommandIo } from './io.ts'

/** Of a page of its own and back, of the cursor, of lines that go on in the next one, and of what is from the cursor on (ECMA-48; xterm's private modes). */
const orders = { enter: '\u001b[?1049h\u001b[?25l\u001b[?7l', leave: '\u001b[?7h\u001b[?25h\u001b[?1049l', home: '\u001b[H', restOfLine: '\u001b[K', restOfPage: '\u001b[J', plain: '\u001b[0m' }

export interface ScreenListeners {
  /** A character as it is, or the name of a key: `up`, `pagedown`. Ctrl-C is `q`. */
  readonly onKey: (key: string) => void
  readonly onResize: () => void
}

export class Screen {
  readonly #stdin: CommandIo['stdin']
  readonly #stdout: CommandIo['stdout']
  readonly #onResize: () => void
  readonly #onKeypress: (text: string | undefined, key: Key) => void
  #isOpen = false

  constructor ({ stdin, stdout }: Pick<CommandIo, 'stdin' | 'stdout'>, { onKey, onResize }: ScreenListeners) {
    this.#stdin = stdin
    this.#stdout = stdout
    this.#onResize = () => this.#guarded(onResize)
    this.#onKeypress = (_text, { name, ctrl }) => this.#guarded(() => { if (name !== undefined) onKey(ctrl === true && name === 'c' ? 'q' : name) })
  }

  /** As `columns`: a terminal that does not know its size says 0. */
  get rows (): number {
    return this.#stdout.rows || 24
  }

  get columns (): number {
    return this.#stdout.columns || 80
  }

  /** What throws here ends the process, which has to leave the terminal as it was. */
  #guarded (act: () => void): void {
    try {
      act()
    } catch (error) {
      this.close()
      throw error
    }
  }

  open (): void {
    this.#isOpen = true
    this.#stdout.write(orders.enter)
    this.#stdout.on('resize', this.#onResize)
    if (this.#stdin.isTTY !== true) return
    emitKeypressEvents(this.#stdin)
    ;(this.#stdin as ReadStream).setRawMode(true)
    this.#stdin.on('keypress', this.#onKeypress).resume()
  }

  /** Shows these lines from the top, and one at the bottom; what is wider or more than there is room for is cut. */
  draw (lines: readonly string[], last: string): void {
    if (!this.#isOpen || this.#stdout.writableNeedDrain) return // who is slow sees the next one
    const room = Math.max(this.rows - 1, 0)
    const shown = lines.slice(0, room)
    const page = [...shown, ...Array<string>(room - shown.length).fill('')].map(line => orders.restOfLine + this.#cut(line) + '\r\n')
    // What was there is erased first: behind a line that fills the terminal the cursor stands on its last character.
    this.#stdout.write(orders.home + page.join('') + orders.restOfPage + this.#cut(last))
  }

  /** A character that is wider than others ends at the terminal's edge, too, since no line goes on in the next one. */
  #cut (line: string): string {
    return cut(onlyColours(line), this.columns)
  }

  close (): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.#stdout.off('resize', this.#onResize).write(orders.leave)
    if (this.#stdin.isTTY !== true) return
    ;(this.#stdin as ReadStream).setRawMode(false)
    this.#stdin.off('keypress', this.#onKeypress).pause()
  }
}

/** The first so many columns of a line. */
function cut (line: string, columns: number): string {
  if (stripVTControlCharacters(line).length <= columns) return line
  let room = columns
  // eslint-disable-next-line no-control-regex
  const parts = line.split(/(\u001b\[\d{1,2}m)/).map((part, index) => {
    if (index % 2 === 1) return part
    const shown = part.slice(0, room)
    room -= shown.length
    return shown
  })
  return parts.join('') + orders.plain
}
