/**
 * Draws two instances and takes the better one (Mitzenmacher's "power of two choices"): close to the best of all, and unlike that it does
 * not send everybody at once to whoever looks best. Slow instances get less, however they come to be slow.
 */
import type { Agent } from './agent.ts'
import { mayTake, type Balancer, type Choice } from './balancer.ts'
import type { Instance } from './instance.ts'
import { trustIn } from './latency.ts'

/** Draws before all are counted; nearly always the first will do. */
const quickDraws = 8

/** @param random from 0 to below 1 */
export function twoChoices (random: () => number): Balancer {
  return {
    pick (agent, choice) {
      const one = draw(agent, choice, random)
      const other = one && draw(agent, choice, random, one)
      return other === undefined ? one : better(one!, other, choice.now)
    }
  }
}

/** One that may be taken, each as likely as any other. */
function draw ({ instances }: Agent, choice: Choice, random: () => number, except?: Instance): Instance | undefined {
  for (let drawn = 0; drawn < quickDraws && drawn < instances.length; drawn++) {
    const instance = instances[Math.floor(random() * instances.length)]!
    if (instance !== except && mayTake(instance, choice)) return instance
  }
  const able = instances.filter(instance => instance !== except && mayTake(instance, choice))
  return able[Math.floor(random() * able.length)]
}

/**
 * The one with the lower score; the first when they are equal. Nobody is left out for having been slow once, or for a small weight: who has
 * nothing to do and was not measured of late is asked, to be measured. Nor is anybody flooded for looking fast: what is not known of one is
 * taken to be as with the other, the more so the longer ago it was measured.
 */
function better (one: Instance, other: Instance, now: number): Instance {
  const first = one.runtime.latency
  const second = other.runtime.latency
  const firstTrust = trustIn(first, now)
  const secondTrust = trustIn(second, now)
  const asksOne = firstTrust === 0 && one.runtime.inFlight === 0
  const asksOther = secondTrust === 0 && other.runtime.inFlight === 0
  if (asksOne !== asksOther) return asksOne ? one : other
  const trust = firstTrust + secondTrust
  const usual = trust === 0 ? 1 : (firstTrust * first.ms + secondTrust * second.ms) / trust
  const firstMs = firstTrust * first.ms + (1 - firstTrust) * usual
  const secondMs = secondTrust * second.ms + (1 - secondTrust) * usual
  return scoreOf(other, secondMs) < scoreOf(one, firstMs) ? other : one
}

function scoreOf ({ runtime, weight }: Instance, ms: number): number {
  return ms * (runtime.inFlight + 1) / weight
}
