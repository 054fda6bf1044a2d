/** What may be configured of the audit log. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const AuditLogOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether each request leaves a line.' }),
  file: Type.Optional(Type.String({ minLength: 1, description: 'File the lines are appended to; standard output when left out.' }))
}, 'One line per request: who, what, which instance, outcome.')

export type AuditLogOptions = StaticDecode<typeof AuditLogOptions>
