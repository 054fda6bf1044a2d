/**
 * What is wrong with a registration, told in the words of the command line before a gateway is asked: a value that can't be is wrong usage.
 * What may be is still the gateway's to refuse.
 */
import { RegistrationOptions } from '../agent-options.ts'
import { checkOptions } from '../options.ts'
import { CommandError, exitCodes } from './io.ts'

/**
 * @param body of `POST /registry/register`; what is undefined is left out
 * @param hostProblem what is wrong with its host, which is looked at here no further
 * @throws CommandError with a line for each fault
 */
export function checkRegistration (body: object, hostProblem: string | undefined): void {
  const given = Object.fromEntries(Object.entries(body).filter(([field, value]) => value !== undefined && field !== 'host'))
  const errors = checkOptions(RegistrationOptions, given).map(({ path, message }) => `${flagOf(path)} ${message}`)
  if (hostProblem !== undefined) errors.push(`--host ${hostProblem}`)
  if (errors.length > 0) throw new CommandError(errors.join('\n'), exitCodes.wrongUsage)
}

/** How a field of the registration is called on the command line. */
function flagOf (path: string): string {
  const [field = ''] = path.split(/[.[]/)
  const others: Record<string, string> = { name: 'The name', aliases: '--alias', health: '--health-path' }
  return others[field] ?? `--${field}`
}
