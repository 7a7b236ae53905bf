// The outer step gives the same bytes in every engine that peers run.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'

import { root, Workshop } from '../lib/programs.mjs'
import { file, page, serve } from '../lib/site.mjs'
import { openChromium } from '../lib/volunteer.mjs'
import { ended, until } from '../lib/wait.mjs'

// A browser that nothing controls: the page itself tells what the golden page computed.
const REPORTER = `<!doctype html><iframe src="/golden.html"></iframe><script type="module">
  const shown = () => document.querySelector('iframe').contentDocument?.querySelector('#digest')?.textContent
  const timer = setInterval(() => {
    if (!shown()) return
    clearInterval(timer)
    fetch('/report', { method: 'POST', body: shown() })
  }, 50)
</script>`

describe('the deterministic outer step', { timeout: 5 * 60_000 }, () => {
  const workshop = new Workshop()
  after(() => workshop.close())
  // What the native tests expect of the same vector.
  const source = readFileSync(join(root, 'crates/learn/src/outer/golden.rs'), 'utf8')
  const expected = /DIGEST: &str = "([0-9a-f]{64})"/.exec(source)?.[1]

  /** @param {(url: string) => Promise<void>} open */
  async function reported(open) {
    /** @type {string | undefined} */
    let digest
    const site = await serve(workshop, (path, body) => {
      if (path === '/report') digest = body.trim()
      if (path === '/report' || path === '/') return page(REPORTER)
      return file(join(root, 'web/dist'), path)
    })
    await open(`${site}/`)
    return until('the page reports a digest', () => digest)
  }

  test('in Chromium', async () => {
    const browser = await openChromium(workshop)
    const tab = await browser.newPage()
    assert.equal(await reported(async (url) => void (await tab.goto(url))), expected)
  })

  test('in Firefox', async () => {
    const program = process.env.FIREFOX ?? '/usr/bin/firefox-esr'
    const profile = workshop.folder()
    const digest = await reported(async (url) => {
      const firefox = spawn(program, ['--headless', '--no-remote', '--profile', profile, url], {
        stdio: 'ignore',
        env: { ...process.env, HOME: profile, MOZ_CRASHREPORTER_DISABLE: '1' },
        detached: true,
      })
      workshop.onClose(async () => {
        // Its content processes end with it.
        if (firefox.pid !== undefined) process.kill(-firefox.pid, 'SIGKILL')
        await ended(firefox)
      })
    })
    assert.equal(digest, expected)
  })
})
