/**
 * What is used of TypeBox. It comes as seven hundred modules, which take half a second of a processor to load; `npm run build` makes one of them
 * (scripts/build-typebox.js), so that only tests pay for it.
 */
export { Type, type Static, type StaticDecode, type TSchema } from 'typebox'
export { Settings } from 'typebox/system'
export { DecodeUnsafe, Value } from 'typebox/value'
