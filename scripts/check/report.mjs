// Opens pages of sensei in a real Chromium, as a person on a desk and on a phone would, light and dark.
//
//     node scripts/check/report.mjs TOOLS OUT PAGE.html...
//
// TOOLS has playwright-core and axe-core (npm install --prefix TOOLS); the browser is the system's chromium, or $CHROMIUM. Each page fails
// by: an error on its console, a request to anywhere, content wider than the screen, a serious finding of axe, more than 1.5 MB, or more than a
// second until it stands. Charts are read by keyboard and a table is sorted. OUT gets a picture of each page, size and scheme.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [tools, out, ...pages] = process.argv.slice(2);
if (!pages.length) {
  console.error("usage: node scripts/check/report.mjs TOOLS OUT PAGE.html...");
  process.exit(2);
}
const require = createRequire(path.resolve(tools) + "/");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const MAX_BYTES = 1.5e6;
const MAX_MILLISECONDS = 1000;
const SCREENS = [
  { name: "1280", viewport: { width: 1280, height: 900 } },
  { name: "390", viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

const found = () => {
  try {
    return process.env.CHROMIUM || execFileSync("sh", ["-c", "command -v chromium || command -v google-chrome"], { encoding: "utf8" }).trim();
  } catch {
    console.error("expected chromium on PATH or in $CHROMIUM, found none");
    process.exit(2);
  }
};

/** Elements that stick out of the screen, apart from those that scroll by themselves. */
const tooWide = () => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("body *")].filter((of) => of.getBoundingClientRect().right > width + 1 && !of.closest(".scroll, pre"));
  return [`content is ${document.documentElement.scrollWidth} pixels wide on a screen of ${width}`,
    ...wide.slice(0, 3).map((of) => `${of.tagName.toLowerCase()}.${of.getAttribute("class")} reaches ${Math.round(of.getBoundingClientRect().right)}`)];
};

/** Serious and critical findings of axe. */
const findings = async (page, when) => {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, help, nodes }) => `axe, ${when}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 120)).join(" | ")}`);
};

/** What a reader does: skip to the content, read a chart by keyboard, sort a table. */
const used = async (page) => {
  const wrong = [];
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.className);
  if (first !== "skip") wrong.push(`the first stop of the Tab key is ${JSON.stringify(first)}, not the link to the content`);
  const chart = page.locator("[data-chart] .canvas").first();
  if (await chart.count()) {
    const readout = page.locator("[data-chart] .readout").first();
    await chart.focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    const words = await readout.textContent();
    if (!/^[a-z ]+ [0-9]/.test(words)) wrong.push(`a chart says ${JSON.stringify(words)} after two arrow keys`);
    if (!(await page.locator("[data-chart] canvas").count())) wrong.push("a chart has no canvas");
  }
  const header = page.locator("table.sortable thead button").nth(2);
  if (await header.count()) {
    await header.click();
    const column = await header.evaluate((button) => {
      const table = button.closest("table");
      const cells = [...table.tBodies[0].rows].map((row) => Number(row.cells[2].dataset.v));
      return { sort: button.closest("th").getAttribute("aria-sort"), sorted: cells.every((value, idx) => !idx || cells[idx - 1] >= value) };
    });
    if (column.sort !== "descending" || !column.sorted) wrong.push(`a table is not sorted: ${JSON.stringify(column)}`);
  }
  return wrong;
};

const profile = fs.mkdtempSync(path.join(os.tmpdir(), "sensei-report-"));
const browser = await chromium.launch({ executablePath: found(), args: FLAGS, env: { ...process.env, HOME: profile } });
fs.mkdirSync(out, { recursive: true });
let nFailed = 0;
for (const file of pages) {
  const wrong = [];
  const address = pathToFileURL(path.resolve(file)).href;
  const name = path.resolve(file).split(path.sep).slice(-2).join("-").replace(/\.html$/, "");
  const bytes = fs.statSync(file).size;
  if (bytes > MAX_BYTES) wrong.push(`expected at most ${MAX_BYTES} bytes, found ${bytes}`);
  const times = [];
  for (const screen of SCREENS) {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ ...screen, colorScheme, reducedMotion: "reduce" });
      const page = await context.newPage();
      const at = `${screen.name} ${colorScheme}`;
      page.on("console", (message) => ["error", "warning"].includes(message.type()) && wrong.push(`${at}: console: ${message.text()}`));
      page.on("pageerror", (error) => wrong.push(`${at}: ${error.message}`));
      page.on("request", (request) => {
        if (request.url() !== address && !request.url().startsWith("data:")) wrong.push(`${at}: a request to ${request.url()}`);
      });
      await page.goto(address, { waitUntil: "load" });
      times.push(await page.evaluate(() => performance.getEntriesByType("navigation")[0].duration));
      await page.waitForTimeout(150);
      for (const words of await page.evaluate(tooWide)) wrong.push(`${at}: ${words}`);
      await page.screenshot({ path: path.join(out, `${name}-${screen.name}-${colorScheme}.png`), fullPage: true });
      for (const words of await findings(page, `${at}, closed`)) wrong.push(words);
      if (colorScheme === "light") for (const words of await used(page)) wrong.push(`${at}: ${words}`);
      await page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
      await page.waitForTimeout(300);
      for (const words of await page.evaluate(tooWide)) wrong.push(`${at}, all open: ${words}`);
      for (const words of await findings(page, `${at}, all open`)) wrong.push(words);
      await page.screenshot({ path: path.join(out, `${name}-${screen.name}-${colorScheme}-open.png`), fullPage: true });
      await context.close();
    }
  }
  // The quickest of four: what else the machine does is not the page's.
  const quickest = Math.min(...times);
  if (quickest > MAX_MILLISECONDS) wrong.push(`expected to stand within ${MAX_MILLISECONDS} ms, took ${quickest.toFixed(0)}`);
  console.log(`${wrong.length ? "FAIL" : "ok"}   ${file}: ${bytes} bytes, ${quickest.toFixed(0)} ms`);
  wrong.forEach((words) => console.log(`     ${words}`));
  nFailed += wrong.length ? 1 : 0;
}
await browser.close();
fs.rmSync(profile, { recursive: true, force: true });
console.log(`${pages.length - nFailed} passed, ${nFailed} failed; pictures in ${out}`);
process.exit(nFailed ? 1 : 0);
