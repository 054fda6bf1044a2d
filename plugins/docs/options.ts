/** What may be configured of the API documents. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const DocsOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether there are `/openapi.json` and `/docs`.' })
}, 'The gateway\'s routes, and those of agents that describe theirs, as an OpenAPI document at `/openapi.json` (needs `read`), and as a page at `/docs`.')

export type DocsOptions = StaticDecode<typeof DocsOptions>
