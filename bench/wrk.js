/** wrk's script and what it prints. Pure, so that test/bench.test.ts can check it. */

/** How many of each unit make a second. */
const inSecond = { us: 1e6, ms: 1_000, s: 1, m: 1 / 60 }

/**
 * What `wrk --latency` printed, in requests, seconds and milliseconds.
 * @returns {{ requests: number, seconds: number, p50: number, p99: number, failures: string[] }}
 * @throws {Error} when it is no report of wrk's
 */
export function parseWrk (printed) {
  const [, requests, time, unit] = /(\d+) requests in ([\d.]+)(us|ms|s|m)/.exec(printed) ?? []
  if (requests === undefined) throw new Error(`wrk did not report: ${printed.trim().slice(0, 300)}`)
  const at = share => {
    const [, value, unit] = new RegExp(`^\\s+${share}%\\s+([\\d.]+)(us|ms|s|m)`, 'm').exec(printed) ?? []
    return value === undefined ? NaN : Number(value) * 1_000 / inSecond[unit]
  }
  const [, bad] = /Non-2xx or 3xx responses: (\d+)/.exec(printed) ?? []
  const [, sockets] = /Socket errors: (.*)/.exec(printed) ?? []
  return {
    requests: Number(requests),
    seconds: Number(time) / inSecond[unit],
    p50: at(50),
    p99: at(99),
    failures: [
      ...(bad === undefined ? [] : [`${bad} answers were not 2xx`]),
      ...(sockets === undefined ? [] : [`socket errors: ${sockets}`]),
      ...(requests === '0' ? ['no request was answered'] : [])
    ]
  }
}

/** The Lua that tells wrk what to send: a method, headers, a body of so many bytes, and paths in turn. */
export function wrkScript ({ method = 'GET', paths, headers, bodyBytes = 0 }) {
  const text = value => JSON.stringify(value) // plain ASCII, so the same in Lua
  return [
    `wrk.method = ${text(method)}`,
    ...Object.entries(headers).map(([name, value]) => `wrk.headers[${text(name)}] = ${text(value)}`),
    ...(bodyBytes > 0 ? [`wrk.body = string.rep("x", ${bodyBytes})`] : []),
    ...(paths.length > 1
      ? [
          `local paths = { ${paths.map(text).join(', ')} }`,
          'local requests, turn = {}, 0',
          'init = function () for index, path in ipairs(paths) do requests[index] = wrk.format(nil, path) end end',
          'request = function () turn = turn % #requests + 1; return requests[turn] end'
        ]
      : []),
    ''
  ].join('\n')
}
