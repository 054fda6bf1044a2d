/**
 * A configuration that is wrong, as an error: of a file, of what code gave for the whole gateway, or of one plugin's part (OptionsError in
 * options.ts).
 */

/** One thing that is wrong. Without a file when the configuration was given in code; without line and column when the whole file is meant. */
export interface ConfigProblem {
  file?: string
  /** Counts from 1, as `column`. */
  line?: number
  column?: number
  /** Path of the key or value: `agents[1].port`; empty for the whole. */
  path: string
  message: string
  /** The known name that was meant, probably: of a key that is not known, or of a choice. The message has it, too. */
  nearest?: string
}

/** The configuration is wrong. `problems` lists every reason; the message has one line for each: `fleet.yaml:12:7 agents[1].prot: unknown key`. */
export class ConfigError extends Error {
  readonly problems: readonly ConfigProblem[]
  /** @param options `message` where the lines shall read otherwise */
  constructor (problems: readonly ConfigProblem[], { message = problems.map(formatProblem).join('\n'), ...options }: { cause?: unknown, message?: string } = {}) {
    super(message, options)
    this.name = 'ConfigError'
    this.problems = problems
  }

  /** The lines alone: they say for themselves where they come from. */
  override toString (): string {
    return this.message
  }
}

function formatProblem ({ file, line, column, path, message }: ConfigProblem): string {
  const what = path === '' ? message : `${path}: ${message}`
  if (file === undefined) return what
  // Without a place and a path the file itself is the subject: "fleet.yaml: can not be read".
  return line === undefined && path === '' ? `${file}: ${what}` : `${[file, line, column].filter(part => part !== undefined).join(':')} ${what}`
}
