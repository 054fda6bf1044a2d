/** What upstreams answer, whichever program they are. */

/** 200 bytes of JSON. */
export const small = JSON.stringify({ ok: true, data: 'x'.repeat(179) })

/** Of the large answer and the large request body. */
export const largeBytes = 2 ** 20

/** Of one event, its empty line included. */
export const eventBytes = 64
