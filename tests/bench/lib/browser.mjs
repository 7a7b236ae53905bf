// One headless Chromium, and a fresh profile and page for each measurement.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const counters = readFileSync(join(dirname(fileURLToPath(import.meta.url)), 'counters.js'), 'utf8')

const FLAGS = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--ignore-gpu-blocklist',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  '--disable-background-timer-throttling',
  '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows',
]
const SOFTWARE = ['--use-webgpu-adapter=swiftshader', '--enable-unsafe-swiftshader']
const HARDWARE = ['--enable-features=Vulkan,VulkanFromANGLE,DefaultANGLEVulkan', '--use-angle=vulkan', '--disable-vulkan-surface']

/** @param {boolean} gpu a real one, through Vulkan; else SwiftShader */
export async function launch(gpu) {
  // Only here: options can be checked before any package is installed.
  const { chromium } = await import('playwright-core')
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [...FLAGS, ...(gpu ? HARDWARE : SOFTWARE)],
  })
}

/**
 * Opens a page that has `window[name]`, calls it and gives its answer with what the page asked of WebGPU.
 * @param {import('playwright-core').Browser} browser
 * @param {string} url
 * @param {string} name
 * @param {any} order
 */
export async function call(browser, url, name, order) {
  const context = await browser.newContext()
  try {
    await context.addInitScript({ content: counters })
    const page = await context.newPage()
    page.setDefaultTimeout(0)
    const lines = []
    page.on('console', (message) => lines.push(`${message.type()}: ${message.text()}`))
    page.on('pageerror', (error) => lines.push(`error: ${error.stack ?? error}`))
    const crashed = new Promise((_, reject) => page.on('crash', () => reject(new Error('the page crashed'))))
    await page.goto(url)
    const work = async () => {
      await page.waitForFunction((name) => name in window, name, { timeout: 60_000 })
      return page.evaluate(
        async ([name, order]) => {
          const answer = await window[name](order)
          return { ...answer, counts: window.benchCounts(order.steps ?? 1) }
        },
        [name, order],
      )
    }
    try {
      return await Promise.race([work(), crashed])
    } catch (error) {
      throw new Error(`${url}: ${error.message}${lines.map((line) => `\n  ${line}`).join('')}`)
    }
  } finally {
    await context.close()
  }
}

/**
 * What the browser computes with.
 * @param {import('playwright-core').Browser} browser
 * @param {string} url
 */
export async function machine(browser, url) {
  const page = await browser.newPage()
  await page.goto(url)
  const said = await page.evaluate(async () => {
    const adapter = await navigator.gpu?.requestAdapter()
    const { vendor, architecture, device, description } = adapter?.info ?? {}
    return {
      adapter: [vendor, architecture, device, description].filter(Boolean).join(' ') || 'none',
      isolated: crossOriginIsolated,
      threads: navigator.hardwareConcurrency,
    }
  })
  await page.close()
  return { ...said, browser: `Chromium ${browser.version()}` }
}
