/** What may be configured of the console. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const ConsoleOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether there is a console at `/console/`.' })
}, 'A page to watch and change the fleet in a browser.')

export type ConsoleOptions = StaticDecode<typeof ConsoleOptions>
