// Opens a page of web/build.sh in a real Chromium and holds its student to a package's test vectors.
//
//     node scripts/check/web.mjs TOOLS OUT PAGE.html PACKAGE
//
// TOOLS has playwright-core and axe-core (npm install --prefix TOOLS); the browser is the system's chromium, or $CHROMIUM. It fails by: a logit
// that is not the test vector's, an error on the console, a request to anywhere, content wider than the screen, a serious finding of axe, a box
// that is drawn and has no mask, one that is being dragged and shows the mask of before, a camera that shows nothing. It prints milliseconds for a mask, which nothing fails by. OUT gets pictures.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [tools, out, file, packageFolder] = process.argv.slice(2);
if (!packageFolder) {
  console.error("usage: node scripts/check/web.mjs TOOLS OUT PAGE.html PACKAGE");
  process.exit(2);
}
const require = createRequire(path.resolve(tools) + "/");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
  // A camera that shows a test picture, and a person who allows it.
  "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const executablePath = process.env.CHROMIUM ||
  execFileSync("sh", ["-c", "command -v chromium || command -v google-chrome"], { encoding: "utf8" }).trim();

const profile = fs.mkdtempSync(path.join(os.tmpdir(), "sensei-web-"));
const browser = await chromium.launch({ executablePath, args: FLAGS, env: { ...process.env, HOME: profile } });
fs.mkdirSync(out, { recursive: true });
const address = pathToFileURL(path.resolve(file)).href;
const wrong = [];
const opened = async (name, options) => {
  const page = await (await browser.newContext(options)).newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && wrong.push(`${name}: console: ${message.text()}`));
  page.on("pageerror", (error) => wrong.push(`${name}: ${error.message}`));
  page.on("request", (request) => {
    const url = request.url();
    if (url !== address && !url.startsWith("data:") && !url.startsWith("blob:")) wrong.push(`${name}: a request to ${url}`);
  });
  await page.goto(address, { waitUntil: "load" });
  await page.waitForFunction(() => window.sensei?.mask());
  return page;
};

// The same numbers as the package's, to the bit.
const page = await opened("1280", { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
const vectors = path.join(packageFolder, "test_vectors");
const names = fs.readdirSync(vectors).filter((name) => name.endsWith(".input")).map((name) => name.replace(/\.input$/, ""));
if (!names.length) wrong.push(`${vectors}: expected test vectors, found none`);
let [nValues, nDifferent] = [0, 0];
for (const name of names) {
  const input = [...new Int8Array(fs.readFileSync(path.join(vectors, `${name}.input`)))];
  const bytes = fs.readFileSync(path.join(vectors, `${name}.output`));
  // The chip sends columns.
  const expected = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const { found, side } = await page.evaluate((values) => ({ found: [...window.sensei.run(Int8Array.from(values))], side: window.sensei.side() }), input);
  if (found.length !== expected.length) wrong.push(`${name}: expected ${expected.length} logits, found ${found.length}`);
  for (let row = 0; row < side; row += 1) {
    for (let column = 0; column < side; column += 1) {
      nValues += 1;
      nDifferent += expected[column * side + row] === found[row * side + column] ? 0 : 1;
    }
  }
}
if (nDifferent) wrong.push(`${nDifferent} of ${nValues} logits are not the package's`);

const milliseconds = await page.evaluate((n) => {
  const side = window.sensei.side();
  const input = Int8Array.from({ length: 3 * side * side }, (_, at) => (at * 31) % 256 - 128);
  const times = Array.from({ length: n }, () => {
    const started = performance.now();
    window.sensei.run(input);
    return performance.now() - started;
  });
  return times.sort((a, b) => a - b)[Math.floor(n / 2)];
}, 21);

// A person draws, types and looks.
const draw = async (of, name) => {
  const stage = await of.locator("#stage").boundingBox();
  const at = (x, y) => [stage.x + x * stage.width, stage.y + y * stage.height];
  await of.mouse.move(...at(0.61, 0.28));
  await of.mouse.down();
  await of.mouse.move(...at(0.7, 0.5), { steps: 3 });
  await of.waitForTimeout(300);
  const meanwhile = await of.locator("#said").textContent();
  await of.mouse.move(...at(0.83, 0.79), { steps: 3 });
  await of.waitForTimeout(300);
  if (await of.locator("#said").textContent() === meanwhile) wrong.push(`${name}: the mask does not follow a box that is being drawn`);
  await of.mouse.up();
  await of.waitForTimeout(300);
  const said = await of.locator("#said").textContent();
  if (!/Mask of [1-9][0-9]* pixels, score 0\.[0-9]+, [0-9]+ ms/.test(said)) wrong.push(`${name}: after a box the page says ${JSON.stringify(said)}`);
  const before = said;
  await of.locator("#w").fill("60");
  await of.waitForTimeout(300);
  if (await of.locator("#said").textContent() === before) wrong.push(`${name}: another width changes nothing`);
};
await draw(page, "1280");
const phone = await opened("390", { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme: "dark" });
await draw(phone, "390");
for (const [name, of] of [["1280", page], ["390", phone]]) {
  for (const colorScheme of ["light", "dark"]) {
    await of.emulateMedia({ colorScheme });
    await of.screenshot({ path: path.join(out, `web-${name}-${colorScheme}.png`), fullPage: true });
  }
  const [content, screen] = await of.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  if (content > screen) wrong.push(`${name}: content is ${content} pixels wide on a screen of ${screen}`);
  await of.evaluate(axe);
  const { violations } = await of.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  violations.filter(({ impact }) => impact === "serious" || impact === "critical")
    .forEach(({ id, nodes }) => wrong.push(`${name}: axe: ${id}: ${nodes[0].html.slice(0, 120)}`));
}
// The camera's picture takes the place of the one that was drawn on, and is asked about again and again.
const pixels = () => page.evaluate(() => {
  const image = document.getElementById("image");
  return [...image.getContext("2d").getImageData(0, 0, image.width, image.height).data].reduce((sum, value, at) => (sum * 31 + value + at) % 1000003, 0);
});
const still = await pixels();
await page.locator("#camera").click();
await page.waitForTimeout(1500);
const seen = await pixels();
await page.waitForTimeout(1500);
if (seen === still || seen === await pixels()) wrong.push("the camera: expected a picture that changes, found one that does not");
const live = await page.locator("#said").textContent();
if (!/^Mask of [0-9]+ pixels/.test(live)) wrong.push(`the camera: the page says ${JSON.stringify(live)}`);
await page.locator("#camera").click();
if (await page.locator("#camera").getAttribute("aria-pressed") !== "false") wrong.push("the camera: a second click does not end it");

// A file that is no model leaves the one before.
const broken = path.join(profile, "broken.s8m");
fs.writeFileSync(broken, "no model");
await page.locator("#model").setInputFiles(broken);
await page.waitForTimeout(200);
const refusal = await page.locator("#said").textContent();
if (!refusal.startsWith("broken.s8m: ")) wrong.push(`a broken model: the page says ${JSON.stringify(refusal)}`);
if (!(await page.evaluate(() => window.sensei.side()))) wrong.push("a broken model took the place of the one before");

await browser.close();
fs.rmSync(profile, { recursive: true, force: true });
console.log(`${file}: ${names.length} test vectors, ${nDifferent} of ${nValues} logits differ; the network takes ${milliseconds.toFixed(1)} ms (median of 21)`);
wrong.forEach((words) => console.log(`FAIL ${words}`));
process.exit(wrong.length ? 1 : 0);
