/**
 * Parts of the soak of several gateways that take something away: Redis, a gateway's way to it, a gateway. They go on beside each other, so that
 * two or more are away at once, but for what nobody could survive (docs/operations.md, "What is lost all the same"): a gateway is not killed just when
 * Redis loses its data, which it does again only when every gateway has been heard, and when Redis has older data that is all there is.
 */
import { ask } from './client.js'

/** What a gateway was told is in its own file, and every other one that could read it has read it. */
const keptMs = 3_000

/** Gateways that are there after an outage have what the others have by then, and have written it. */
const recoveredMs = 5_000

/** Redis is stopped, killed, set back or emptied. */
export async function redisOutages (soak) {
  const { random, redis, ledger, away } = soak
  const kinds = ['stopped', 'killed', 'emptied', 'emptied', 'set back']
  for (let next = []; !soak.over(); await soak.pause(random.integer(300, 5_000))) {
    if (next.length === 0) next = random.shuffle(kinds)
    const kind = next.pop()
    await (kind === 'set back' ? soak.alone : soak.beside)(() => outage(kind))
  }

  /** One that has had no Redis since its data was lost may be the only one that knows who had left. */
  async function hasShared (gateway) {
    while (!soak.over()) {
      const { body } = await ask(gateway, 'GET', '/health').catch(() => ({})) // it is away
      if (body?.redis === 'ok') return
      await soak.pause(50)
    }
  }

  async function outage (kind) {
    const losesData = kind === 'emptied' || kind === 'set back'
    if (losesData) {
      await Promise.all(soak.gateways.all.map(hasShared))
      if (soak.over()) return
      await soak.untilGatewaysAreUnhurt(keptMs)
    }
    if (kind === 'set back') {
      await soak.pause(recoveredMs) // who has seen less than the copy takes it for the newest
      await redis.copy()
      await soak.pause(random.integer(100, 3_000))
    }
    const ms = kind === 'stopped' ? random.integer(300, 8_000) : random.pick([0, random.integer(0, 1_000), random.integer(0, 6_000)])
    soak.note(`Redis is ${kind} for ${ms} ms`)
    ledger.count(`Redis ${kind}`)
    const time = away.begin(losesData)
    if (kind === 'stopped') {
      redis.stop()
      await soak.pause(ms)
      redis.goOn()
    } else {
      await redis.kill()
      if (kind === 'emptied') await redis.forget()
      if (kind === 'set back') await redis.goBack()
      await soak.pause(ms)
      await redis.start()
    }
    away.end(time)
    soak.note('Redis is back')
    if (losesData) {
      await soak.pause(recoveredMs)
      soak.gatewaysMayBeHurt()
    }
  }
}

/** One gateway's way to Redis is cut, or silent. */
export async function lineFaults (soak, gateway) {
  const { random, ledger } = soak
  const { line, name } = gateway
  for (;;) {
    await soak.pause(random.integer(500, 8_000))
    if (soak.over()) return
    const ms = random.integer(300, 8_000)
    const kind = random.pick(['cut', 'silent, then late', 'silent, then lost'])
    await soak.beside(async () => {
      soak.note(`the line of ${name} is ${kind} for ${ms} ms`)
      ledger.count(`lines ${kind}`)
      if (kind === 'cut') {
        await line.cut()
        await soak.pause(ms)
        await line.mend()
      } else {
        line.silence()
        await soak.pause(ms)
        if (kind === 'silent, then late') line.deliver()
        else line.drop()
      }
      soak.note(`the line of ${name} is back`)
    })
  }
}

/** One gateway is killed, or ended, and started again with its folder. */
export async function gatewayEnds (soak, gateway) {
  const { random, ledger, gateways } = soak
  for (;;) {
    await soak.pause(random.integer(1_000, 12_000))
    if (soak.over()) return
    const isKill = random.chance(0.5)
    await soak.beside(async () => {
      if (isKill && !soak.mayHurtGateways()) return
      soak.note(`${gateway.name} is ${isKill ? 'killed' : 'ended'}`)
      ledger.count(isKill ? 'gateways killed' : 'gateways ended')
      if (isKill) {
        soak.gatewayWasHurt()
        await gateways.kill(gateway)
      } else {
        await gateways.terminate(gateway)
      }
      soak.note(`${gateway.name} is gone`)
      await soak.pause(random.integer(0, 2_000))
      await gateways.start(gateway)
      soak.note(`${gateway.name} is there again`)
    })
  }
}
