/** Several files in one process: see members.js. */
import t from 'tap'
// @ts-expect-error a plain script, which test/run.js reads as well
import { membersOf } from './members.js'

t.setTimeout(600_000)
for (const file of (membersOf as (name: string) => string[])('places')) await import(`../${file}`)
