// Three people train one model; a fourth comes late, one goes, the relay dies and returns.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import { Relay, tinyShakespeare, Workshop } from '../lib/programs.mjs'
import { compareModels, heldOut, unigramEntropy } from '../lib/text.mjs'
import { openChromium, Volunteer } from '../lib/volunteer.mjs'
import { until } from '../lib/wait.mjs'

describe('volunteers in browsers', { timeout: 25 * 60_000 }, () => {
  const workshop = new Workshop()
  /** @type {Relay} */
  let relay
  /** @type {import('playwright-core').Browser} */
  let browser
  /** @type {Volunteer[]} those who are here now */
  let volunteers = []

  const all = (work) => Promise.all(volunteers.map(work))
  const head = async () => Math.max(...(await all((volunteer) => volunteer.status())).map((status) => status.head))
  const everyoneReaches = (round, withinMs) =>
    all((volunteer) => volunteer.until(`round ${round}`, (status) => status.head >= round && status.models[round], withinMs))
  const sameModels = async () => assert.ok(compareModels(await all((volunteer) => volunteer.status())) > 0)

  before(async () => {
    relay = await Relay.start(workshop, { data: tinyShakespeare() })
    browser = await openChromium(workshop)
  })
  after(() => workshop.close())

  test('three volunteers certify rounds and hold the same model after each', async () => {
    for (const name of ['ana', 'ben', 'cho']) {
      // So that each round's loss can be told, whatever the machine: a slow one would skip some.
      const volunteer = await Volunteer.open(browser, `${relay.page}&measure=all`, name)
      volunteers.push(volunteer)
      await volunteer.start()
    }
    await all((volunteer) => volunteer.until('takes part', (status) => status.accepted >= 1))
    await everyoneReaches(5, 600_000)
    await sameModels()
    for (const { models } of await all((volunteer) => volunteer.status())) {
      for (let round = 1; round <= 5; round += 1) assert.ok(models[round], `everyone knows the model of round ${round}`)
    }
  })

  test('the common model learns more than how frequent bytes are', async () => {
    const entropy = unigramEntropy(await heldOut(relay))
    const [ana] = volunteers
    const below = (status) => {
      const losses = Object.values(status.heldOut)
      return losses.length > 0 && losses[losses.length - 1] < entropy
    }
    const status = await ana.until(`held-out loss below ${entropy.toFixed(3)}`, below, 600_000)
    const measured = await until(`a loss of each round to ${status.head}`, async () => {
      const losses = Object.assign({}, ...(await all((volunteer) => volunteer.status())).map((now) => now.heldOut))
      return Object.keys(losses).filter((round) => Number(round) <= status.head).length > status.head && losses
    })
    for (let round = 0; round <= status.head; round += 1) {
      console.log(`round ${round}: held-out loss ${measured[round].toFixed(4)} nats a byte`)
    }
    console.log(`frequencies alone: ${entropy.toFixed(4)} nats a byte`)
    await ana.frame.getByTestId('sample').click()
    const prompt = await ana.frame.getByTestId('prompt').inputValue()
    const { sample } = await ana.until('a written sample', (now) => now.sample.text.length > 0 && !now.sample.busy)
    assert.ok(sample.text.startsWith(prompt) && sample.text.length > prompt.length, sample.text)
    await ana.until('a curve to look at', (now) => now.head >= 8)
    await ana.picture('contribute.png')
    await sameModels()
  })

  test('a fourth volunteer comes late and reaches the same model', async () => {
    const late = await Volunteer.open(browser, relay.page, 'dee')
    await late.start()
    const status = await late.until('catches up', (now) => now.head > 0 && now.models[now.head])
    volunteers.push(late)
    await everyoneReaches(status.head)
    await sameModels()
    await late.until('an accepted contribution', (now) => now.accepted >= 1)
  })

  test('the others go on when one closes the page in the middle of a round', async () => {
    const gone = volunteers.splice(1, 1)[0]
    const { peer } = await gone.until('in the middle of training', (now) => now.phase === 'training' && now.step > 0)
    const round = await head()
    await gone.close()
    await everyoneReaches(round + 2, 400_000)
    await sameModels()
    await all((volunteer) =>
      volunteer.until('it is off the roster', (now) => !now.roster.some((member) => member.peer === peer), 400_000),
    )
  })

  test('they go on over WebRTC alone when the relay is killed', async () => {
    const peers = new Set((await all((volunteer) => volunteer.status())).map((status) => status.peer))
    await all((volunteer) =>
      volunteer.until('a direct link to each other', (now) =>
        [...peers].every((peer) => peer === now.peer || now.links.some((link) => link.peer === peer && link.direct)),
      ),
    )
    await relay.kill()
    await all((volunteer) => volunteer.until('the page says that the relay is away', (now) => !now.relay))
    const round = await head()
    await everyoneReaches(round + 2, 400_000)
    await sameModels()
  })

  test('the relay catches up when it returns, and its ledger replays from genesis', async () => {
    const round = await head()
    await relay.resume()
    await until(`the relay holds round ${round}`, async () => (await relay.details()).round >= round, { withinMs: 240_000 })
    const { round: reached, model } = await relay.details()
    const printed = await relay.verify()
    console.log(printed.trim())
    const status = await volunteers[0].until('the same round', (now) => now.models[reached])
    assert.equal(status.models[reached], model)
    await everyoneReaches(reached + 1, 400_000)
    await sameModels()
  })
})
