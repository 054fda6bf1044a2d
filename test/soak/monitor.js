/** Preloaded into the gateway of the soak: tells the parent, when it asks, what the process holds, and at once what Node warns of. */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')
const delay = monitorEventLoopDelay({ resolution: 10 })
delay.enable()

process.on('warning', warning => process.send?.({ warning: `${warning.name}: ${warning.message}` }))
process.on('message', ({ reset }) => {
  const pauseMs = delay.max / 1e6
  if (reset) delay.reset()
  collect()
  setImmediate(() => {
    collect()
    const timers = process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
    const { rss, heapUsed } = process.memoryUsage()
    process.send?.({ figures: { rssMiB: rss / 2 ** 20, heapMiB: heapUsed / 2 ** 20, timers, pauseMs } })
  })
})
process.channel?.unref()
