/** What may be configured of the audit log. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const AuditLogOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether each request leaves a line. The last 1,000 are kept in memory for `/audit` in any case.' }),
  file: Type.Optional(Type.String({ minLength: 1, examples: ['audit.log'], description: 'File that the lines are appended to; it and its folder are made. Standard output when left out.' }))
}, 'One line of JSON per request: who, what, which instance, outcome. Never a secret or a body.')

export type AuditLogOptions = StaticDecode<typeof AuditLogOptions>
