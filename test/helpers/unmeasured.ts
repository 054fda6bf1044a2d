/**
 * How a program is started without what tap puts into the environment of whatever a test starts, to measure coverage: that holds each start of Node up by half a
 * second, and is for nothing where many starts run the same code. The first two parameters of spawn() and execFile(); `env` becomes the program.
 */
export function unmeasured (file: string, ...args: readonly string[]): [file: string, args: string[]] {
  return ['env', ['-u', 'NODE_OPTIONS', file, ...args]]
}

/** Unless what it runs counts as covered. */
export function measuredIf (covered: boolean, file: string, ...args: readonly string[]): [file: string, args: string[]] {
  return covered ? [file, [...args]] : unmeasured(file, ...args)
}
