/** What may be configured of forwarding. Agents override these one by one (src/agent-options.ts). */
import { Duration, Options, Size, Type, type StaticDecode } from '../../src/options.ts'

export const TimeoutsOptions = Options({
  connect: Duration({ default: '3s', minimumMs: 1, description: 'How long a connection to an instance may take to open.' }),
  response: Duration({ default: '30s', minimumMs: 1, description: 'From the sent request to the response head.' }),
  idle: Duration({ default: '5m', minimumMs: 1, description: 'The longest pause between bytes of a body, either way.' }),
  total: Type.Optional(Duration({ minimumMs: 1, description: 'The whole exchange; unlimited when left out. Event streams and WebSockets are exempt.' }))
}, 'How long what may take.')

export const RetryOptions = Options({
  attempts: Type.Integer({ default: 1, minimum: 0, maximum: 1, description: 'Retries beside the free ones after a connection that never opened.' }),
  statuses: Type.Optional(Type.Array(Type.Integer({ minimum: 500, maximum: 599 }), { description: 'Answers that are worth a retry; all 5xx but 501 and 505 when left out.' })),
  maxBodyBytes: Size({ default: '64KiB', maximum: 1024 * 1024, description: 'The largest request body that is kept for a retry.' })
}, 'What is sent again.')

export type TimeoutsOptions = StaticDecode<typeof TimeoutsOptions>
export type RetryOptions = StaticDecode<typeof RetryOptions>
