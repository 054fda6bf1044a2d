/**
 * `fleet-gateway serve --dry-run`: what it would run with, and who said each value. Listens to nothing and writes nothing.
 */
import { existsSync } from 'node:fs'
import { ConfigError } from '../config.ts'
import { tellProblems } from './check.ts'
import { effectiveConfig, effectiveJson, effectiveYaml } from './effective.ts'
import { legible, print, printJson, type CommandIo } from './io.ts'
import type { ConfigFlags } from './overrides.ts'
import { setUp, type Setup } from './setup.ts'
import { defaultFile } from './target.ts'

/** @throws CommandError as `serve` would, and with the problems of the file told as `check` tells them */
export async function dryRun (flags: ConfigFlags & { fleet?: string, json?: boolean }, io: CommandIo): Promise<void> {
  const setup = await setUp(flags, io).catch((error: unknown) => {
    if (!(error instanceof ConfigError)) throw error
    return tellProblems(flags.fleet ?? defaultFile, error.problems, flags, io)
  })
  const effective = effectiveConfig(setup)
  if (flags.json === true) printJson(io, { ok: true, file: setup.file, ...effectiveJson(effective) })
  else print(io, `${head(setup)}\n${effectiveYaml(effective)}`)
}

function head ({ file }: Setup): string {
  return `# What the gateway would run with, and who said it. Secrets are masked.${existsSync(file) ? '' : `\n# There is no ${legible(file)}.`}`
}
