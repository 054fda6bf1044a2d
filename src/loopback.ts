/**
 * What counts as "this machine" in a Host or Origin header. Names that only look like it (localhost.example.com) do not.
 */

const name = String.raw`(?:localhost|(?:[a-z0-9-]+\.)+localhost|127(?:\.\d{1,3}){3}|\[::1\])`

/** A host name or literal without a port: `localhost`, `app.localhost`, `127.0.0.1`, `[::1]`. */
export const loopbackHost = new RegExp(`^${name}$`, 'i')

/** An origin on any port. */
export const loopbackOrigin = new RegExp(`^https?://${name}(?::\\d{1,5})?$`, 'i')
