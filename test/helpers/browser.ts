/**
 * A real Chromium for tests of the console, one for each file. What a page says on its console that is an error is kept:
 * a script that broke, or something that the Content-Security-Policy kept out.
 */
import { existsSync } from 'node:fs'
import type { Test } from 'tap'
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core'

const places = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome']
export const executablePath = places.find(place => existsSync(place))

/** Why there can be no browser here; false when there can. Where CI runs there has to be one. */
export const noBrowser = executablePath === undefined && process.env['CI'] !== 'true' ? 'Chromium is not installed' : false

/** Longer than anything here takes, on a busy machine. */
const patienceMs = 20_000

export interface BrowserOfTests {
  /** What pages said on their consoles that is an error. To be looked at last. */
  readonly complaints: readonly string[]
  /** Opens a page of its own, with nothing kept from others. */
  open (t: Test, url: string, options?: BrowserContextOptions): Promise<Page>
}

/** Starts when it is first needed, ends with the file. */
export function browserFor (file: Test): BrowserOfTests {
  let launched: Promise<Browser> | null = null
  const complaints: string[] = []
  file.teardown(async () => { await (await launched)?.close() })
  return {
    complaints,
    async open (t, url, options = {}) {
      launched ??= chromium.launch({ ...(executablePath !== undefined && { executablePath }), args: ['--no-sandbox'], handleSIGINT: false, handleSIGTERM: false, handleSIGHUP: false })
      const context = await (await launched).newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: 'reduce', ...options })
      context.setDefaultTimeout(patienceMs)
      const page = await context.newPage()
      page.on('pageerror', error => complaints.push(String(error)))
      // An answer that is no success is told on the console as well, and is what some tests are about.
      page.on('console', message => { if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) complaints.push(message.text()) })
      t.teardown(() => context.close())
      await page.goto(url)
      return page
    }
  }
}

/** Signs in, and waits for the fleet. */
export async function signIn (page: Page, token: string): Promise<void> {
  await page.getByLabel('Token').fill(token)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByText('Live', { exact: true }).waitFor()
}

/** The row of a table that has this text. */
export function rowOf (page: Page, text: string) {
  return page.getByRole('row').filter({ hasText: text })
}
