/** A command, run in the test's own process, in a pipe or at a terminal. */
import { run } from '../../src/cli/program.ts'
import { fakeIo, type FakeIoOptions } from './fake-io.ts'

export interface Ended { code: number, stdout: string, stderr: string }

export async function runCommand (args: readonly string[], options: FakeIoOptions = {}): Promise<Ended> {
  const { io, stdout, stderr } = fakeIo(options)
  const code = await run(args, io)
  return { code, stdout: stdout(), stderr: stderr() }
}
