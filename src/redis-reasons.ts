/** Why Redis was not heard, in words for a log: the client's own are about the client. */

const inWords: readonly (readonly [pattern: RegExp, words: string])[] = [
  [/^Command timed out$/, 'no answer in time'],
  [/^(Stream isn't writeable|Connection is closed)/, 'no connection'],
  [/^Reached the max retries per request limit/, 'the connection was lost'],
  [/^NOAUTH\b/, 'it wants a password'],
  [/^WRONGPASS\b/, 'it refuses the password'],
  [/^OOM\b/, 'its memory is full'],
  [/^READONLY\b/, 'it follows another one, and can not be written']
]

/** @param error what a command failed with, or the connection */
export function redisReason (error: unknown): string {
  const { message } = error as Error
  return inWords.find(([pattern]) => pattern.test(message))?.[1] ?? message
}
