// Drives one page of a browser, for vgpu_tests::browser: a line of JSON says what is to be done, and a line of JSON is
// the outcome; "end" ends it. Arguments: Playwright, axe-core, the browser, the page's address, and how it
// is looked at, as an object of Playwright's options for a context.
"use strict";
const { createInterface } = require("node:readline");
const { readFileSync } = require("node:fs");

const [playwright, axe, browserPath, address, look] = process.argv.slice(2);
const { chromium } = require(playwright);

/** What is wrong with the page, whatever is done with it: errors of its script, and requests to elsewhere. */
const complaints = [];
let page;
let counting = null;

/** A place is found by what a person or a screen reader calls it, within the one before. */
function find(path) {
  return path.reduce((within, [kind, name]) => {
    switch (kind) {
      case "label": return within.getByLabel(name, { exact: true });
      case "text": return within.getByText(name);
      // By the beginning of its name.
      case "table": return within.getByRole("table", { name: new RegExp(`^${RegExp.escape(name)}`) });
      // By what stands first in it; a narrow window has the column's name before that.
      case "row": return within.getByRole("row").filter({
        has: page.getByRole("rowheader", { name: new RegExp(`^(\\w+ )?${RegExp.escape(name)}$`) }),
      });
      // By its column.
      case "cell": return within.locator(`[data-label="${name}"]`);
      default: return within.getByRole(kind, name ? { name, exact: true } : {});
    }
  }, page);
}

/** What can be done at a place. All of it waits until the place is there, and can be used. */
const AT_PLACES = {
  click: (place) => place.click(),
  fill: (place, text) => place.fill(text),
  choose: (place, label) => place.selectOption({ label }),
  check: (place) => place.check(),
  drag: (place, to) => place.dragTo(find(to)),
  text: (place) => place.textContent(),
  value: (place) => place.inputValue(),
  is_enabled: (place) => place.isEnabled(),
  has_focus: (place) => place.evaluate((node) => node === document.activeElement),
  count: (place) => place.count(),
  property: (place, name) => place.evaluate((node, path) => path.split(".").reduce((of, one) => of[one], node), name),
  until_shown: (place) => place.first().waitFor(),
  until_gone: (place) => place.first().waitFor({ state: "hidden" }),
};

const ON_THE_PAGE = {
  key: (key) => page.keyboard.press(key),
  type: (text) => page.keyboard.type(text),
  complaints: () => complaints,
  /** What a screen reader is told. */
  told: () => page.locator("body").ariaSnapshot(),
  look: (path) => page.screenshot({ path, fullPage: true }).then(() => null),
  /** Pixels by which the page is wider than its window, or a part of it than there is place for it. */
  too_wide: () => page.evaluate(() => Math.max(...[document.documentElement, ...document.querySelectorAll(".part")]
    .map((one) => one.scrollWidth - one.clientWidth))),
  evaluate: (expression) => page.evaluate(expression),
  /** Has a script run before the page's own when it is loaded again. */
  at_start: (content) => page.addInitScript({ content }).then(() => null),
  reload: () => page.reload().then(() => null),
  /** What the browser has done for the page since that was first asked for, in seconds. */
  costs: async () => {
    // It counts from when that was first asked for.
    counting ??= await page.context().newCDPSession(page);
    await counting.send("Performance.enable");
    const { metrics } = await counting.send("Performance.getMetrics");
    return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
  },
  /** What keeps people from using the page as it is now. */
  barriers: async () => {
    // The page's own rules let nobody add a script, so it comes the way that a debugger's does.
    const session = await page.context().newCDPSession(page);
    await session.send("Runtime.evaluate", { expression: readFileSync(axe, "utf8") });
    const found = await session.send("Runtime.evaluate", {
      expression: `axe.run().then(({ violations }) => violations.map(({ id, help, nodes }) => (
        \`\${id}: \${help}: \${nodes.map((node) => \`\${node.html} \${node.failureSummary}\`).join("; ")}\`)))`,
      awaitPromise: true,
      returnByValue: true,
    });
    await session.detach();
    if (found.exceptionDetails) throw new Error(found.exceptionDetails.exception?.description ?? found.exceptionDetails.text);
    return found.result.value;
  },
};

async function main() {
  const browser = await chromium.launch({ executablePath: browserPath });
  const context = await browser.newContext(JSON.parse(look));
  context.setDefaultTimeout(30_000);
  page = await context.newPage();
  const { origin } = new URL(address);
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== origin) complaints.push(`asks for ${request.url()}`);
  });
  page.on("pageerror", (error) => complaints.push(String(error.stack)));
  page.on("console", (message) => {
    // A browser says so of every answer that is an error, and of none at all; the page shows what that means.
    const ofAnAnswer = /^Failed to load resource: /.test(message.text());
    if (message.type() === "error" && !ofAnAnswer) complaints.push(message.text());
  });
  await page.goto(address);
  console.log("{}");
  for await (const line of createInterface({ input: process.stdin })) {
    const { place, act, values } = JSON.parse(line);
    if (act === "end") break;
    try {
      const done = await (place ? AT_PLACES[act](find(place), ...values) : ON_THE_PAGE[act](...values));
      console.log(JSON.stringify({ done: done ?? null }));
    } catch (error) {
      console.log(JSON.stringify({ error: error.message }));
    }
  }
  await browser.close();
}

main().catch((error) => {
  console.log(JSON.stringify({ error: error.message }));
  process.exit(1);
});
