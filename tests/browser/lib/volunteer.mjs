// A person with a browser: opens the page, clicks, looks.
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'

import { chromium } from 'playwright-core'

import { root } from './programs.mjs'
import { Hopeless, until } from './wait.mjs'

const FLAGS = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-unsafe-swiftshader',
  '--ignore-gpu-blocklist',
  '--disable-quic',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  // Volunteers of one test are windows of one browser; each must run as if it were in front.
  '--disable-background-timer-throttling',
  '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows',
  // Names that only a multicast responder knows do not resolve on a machine without one.
  '--disable-features=WebRtcHideLocalIpsWithMdns',
]

/**
 * @param {import('./programs.mjs').Workshop} workshop
 * @param {string[]} [flags] beside those that every test needs
 */
export async function openChromium(workshop, flags = []) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [...FLAGS, ...flags],
  })
  workshop.onClose(() => browser.close())
  return browser
}

export class Volunteer {
  /**
   * Opens the contribute page in a browser profile of its own; nothing runs yet.
   * @param {import('playwright-core').Browser} browser
   * @param {string} url
   * @param {string} name
   */
  static async open(browser, url, name) {
    const volunteer = new Volunteer()
    volunteer.name = name
    volunteer.context = await browser.newContext({ viewport: { width: 1180, height: 1040 } })
    volunteer.page = await volunteer.context.newPage()
    /** @type {string[]} */
    volunteer.console = []
    volunteer.page.on('console', (message) => volunteer.note(`${message.type()}: ${message.text()}`))
    volunteer.page.on('pageerror', (error) => volunteer.note(`error: ${error.stack ?? error}`))
    await volunteer.page.goto(url)
    /** @type {import('playwright-core').Frame} where the session runs: the page itself, or a frame in it */
    volunteer.frame = volunteer.page.mainFrame()
    return volunteer
  }

  /** @param {string} line */
  note(line) {
    this.console.push(line)
    if (process.env.SHOAL_SHOW_LOGS) process.stderr.write(`[${this.name}] ${line}\n`)
  }

  async start() {
    await this.frame.getByTestId('start').click()
  }

  /** What the session knows; see `web/src/status.ts`. */
  async status() {
    return this.frame.evaluate(() => /** @type {any} */ (globalThis).shoalStatus)
  }

  /**
   * Waits until the session's status satisfies `test`, and gives that status.
   * @param {string} what
   * @param {(status: any) => unknown} test
   * @param {number} [withinMs]
   */
  async until(what, test, withinMs = 240_000) {
    return until(
      `${this.name}: ${what}`,
      async () => {
        const status = await this.status()
        if (status?.state === 'failed') throw new Hopeless(`${this.name} failed: ${JSON.stringify(status.failure)}`)
        return status && test(status) ? status : undefined
      },
      {
        withinMs,
        orElse: async () => {
          const { ownLoss, ...status } = (await this.status().catch(() => undefined)) ?? {}
          return { status, points: ownLoss?.length, console: this.console.slice(-12) }
        },
      },
    )
  }

  async close() {
    await this.context.close()
  }

  /** @param {string} file inside `tests/browser/out`, or `docs/images` when pictures are being renewed */
  async picture(file) {
    const folder = process.env.SHOAL_RENEW_PICTURES ? 'docs/images' : 'tests/browser/out'
    const path = join(root, folder, file)
    mkdirSync(dirname(path), { recursive: true })
    await this.page.evaluate(() => scrollTo(0, 0))
    await this.page.screenshot({ path })
    return path
  }
}
