/** What may be configured of forwarding. Agents override these one by one; bounds and words are in src/agent-options.ts, for both. */
import { pathFields, retryFields, retryRules, timeoutFields, timeoutRules } from '../../src/agent-options.ts'
import { Duration, Options, Size, Type, type StaticDecode } from '../../src/options.ts'

export const TimeoutsOptions = Options({
  connect: Duration({ default: '3s', ...timeoutRules.connect }),
  response: Duration({ default: '30s', ...timeoutRules.response }),
  idle: Duration({ default: '5m', ...timeoutRules.idle }),
  total: timeoutFields(Duration).total
}, 'How long the parts of a forwarded request may take.')

export const RetryOptions = Options({
  attempts: Type.Integer({ default: 1, ...retryRules.attempts }),
  statuses: retryFields.statuses,
  maxBodyBytes: Size({ default: '64KiB', ...retryRules.maxBodyBytes })
}, 'What is sent again after a failure: requests that are idempotent or have an `Idempotency-Key`, to another instance where there is one.')

export const PathsOptions = pathFields(Duration)

export type PathsOptions = StaticDecode<typeof PathsOptions>
export type TimeoutsOptions = StaticDecode<typeof TimeoutsOptions>
export type RetryOptions = StaticDecode<typeof RetryOptions>
