/**
 * JSON that a terminal can be shown: without the characters that JSON.stringify() leaves as they are, and a terminal or a reader of lines obeys.
 */

/** C1 control characters, DEL and line separators. */
const unescaped = /[\u007f-\u009f\u2028\u2029]/g

/** As JSON.stringify(), on one line. */
export function lineJson (value: unknown): string {
  return JSON.stringify(value).replace(unescaped, character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
