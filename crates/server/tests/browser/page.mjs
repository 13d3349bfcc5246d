// The page in a real Chromium: node page.mjs URL [folder for screenshots] [picture]
//
// Needs `npm install` here, and Debian's chromium (or CHROMIUM=path). Exits with 1 where a claim does not hold.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const [url = "http://127.0.0.1:8080", folder, file] = process.argv.slice(2);
if (folder) mkdirSync(folder, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});

const problems = [];
const page = await browser.newPage({ viewport: { width: 1100, height: 1300 } });
page.setDefaultTimeout(120_000);
page.on("pageerror", (error) => problems.push(`an error on the page: ${error.message}`));
page.on("console", (line) => {
  // Chromium reports a share that is refused, which the page explains, as well.
  if (line.type() === "error" && !/status of 422/.test(line.text())) problems.push(`on the console: ${line.text()}`);
});
page.on("request", (request) => {
  const address = request.url();
  if (!address.startsWith(url) && !/^(blob|data):/.test(address)) problems.push(`asked elsewhere: ${address}`);
});

const shot = async (name) => {
  if (folder) await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
};
const side = (index) => page.locator(".side").nth(index);
const answered = (index) => page.waitForFunction(
  (index) => document.querySelectorAll(".side")[index]?.querySelectorAll(".classes li").length > 0, index,
);
/// What a side shows: its classes, figures, and the pixels of its canvas.
const shown = (index) => side(index).evaluate((root) => ({
  classes: [...root.querySelectorAll(".classes li")].map((item) => item.textContent),
  figures: root.querySelector(".figures").textContent,
  fault: root.querySelector(".fault").textContent,
  block: root.querySelector(".block-text").textContent,
  pixels: root.querySelector("canvas.patches").toDataURL(),
}));
const slide = async (index, share) => {
  const before = await shown(index);
  await side(index).locator(".share").fill(String(share));
  await page.waitForFunction(
    ([index, before]) => {
      const root = document.querySelectorAll(".side")[index];
      return root.querySelector(".figures").textContent !== before.figures ||
        root.querySelector(".fault").textContent !== before.fault;
    },
    [index, before],
  );
  return shown(index);
};
const claim = async (text, check) => {
  try {
    await check();
    console.log(`ok: ${text}`);
  } catch (error) {
    problems.push(`${text}: ${error.message}`);
    console.log(`FAILED: ${text}: ${error.message}`);
  }
};

await page.goto(url);
await page.locator(".side").nth(1).waitFor();

await claim("an example is classified on both sides", async () => {
  await page.getByRole("button", { name: "Take an example" }).click();
  await answered(0);
  await answered(1);
});

if (file) {
  await claim("a picture that is dropped is classified", async () => {
    const { readFileSync } = await import("node:fs");
    const before = await shown(0);
    const data = readFileSync(file).toString("base64");
    await page.evaluate(async (data) => {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      const dropped = new DataTransfer();
      dropped.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
      document.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
    }, data);
    await page.waitForFunction(
      (before) => document.querySelector(".side canvas.patches").toDataURL() !== before.pixels, before,
    );
  });
}
await page.waitForTimeout(300);
await shot("page");

await claim("the slider changes what is computed and which patches remain", async () => {
  const dense = await slide(0, 1);
  assert.match(dense.figures, /100\.0 % of dense/);
  const pruned = await slide(0, 0.6);
  assert.equal(pruned.fault, "");
  assert.notEqual(pruned.pixels, dense.pixels);
  assert.notEqual(pruned.figures, dense.figures);
  assert.equal(pruned.classes.length, dense.classes.length);
});

await claim("the blocks show fewer and fewer tokens", async () => {
  const slider = side(0).locator(".block");
  const most = Number(await slider.getAttribute("max"));
  assert.ok(most > 1);
  const counts = [];
  for (let block = 0; block <= most; block++) {
    await slider.fill(String(block));
    counts.push(Number((await shown(0)).block.match(/: (\d+)/)[1]));
  }
  assert.deepEqual(counts, [...counts].sort((a, b) => b - a));
  assert.ok(counts.at(-1) < counts[0]);
});
await shot("blocks");

await claim("a share that cannot be met is explained", async () => {
  const state = await slide(1, 0.2);
  if (state.fault) assert.match(state.fault, /0\.2/);
  await slide(1, 0.6);
});

await claim("everything can be reached and moved by the keyboard", async () => {
  await page.evaluate(() => document.activeElement?.blur());
  const reached = new Set();
  for (let step = 0; step < 40; step++) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.className));
  }
  for (const name of ["choose", "camera", "example", "model", "share", "block"]) assert.ok(reached.has(name), name);
  await side(0).locator(".share").focus();
  const before = await side(0).locator(".share").inputValue();
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await side(0).locator(".share").inputValue(), before);
});

await claim("the load is shown", async () => {
  await page.waitForFunction(() => document.querySelectorAll("#load dd").length >= 6);
});

const panel = side(0).locator(".memory");
const [served] = await (await fetch(`${url}/v1/models`)).json();
const remembers = (await fetch(`${url}/v1/models/${served.name}/memory`)).ok;
if (!remembers) {
  await claim("without a memory nothing is said of one", async () => assert.ok(!(await panel.isVisible())));
} else {
  await claim("a picture that is remembered is known, and by what", async () => {
    await panel.locator("input").fill("snark");
    await panel.getByRole("button", { name: "Remember" }).click();
    await page.waitForFunction(() => document.querySelector(".side .neighbors li")?.textContent.includes("snark"));
    assert.match((await shown(0)).classes[0], /snark/);
    assert.match(await panel.locator(".looked").textContent(), /100 % of the answer/);
  });
}

await page.emulateMedia({ colorScheme: "dark" });
await page.waitForTimeout(300);
await shot("dark");

await claim("nothing is wider than a phone", async () => {
  await page.setViewportSize({ width: 375, height: 740 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 375, `${wide} pixels`);
});
await page.emulateMedia({ colorScheme: "light" });
await shot("phone");

await claim("the description of the API is a page", async () => {
  await page.setViewportSize({ width: 1000, height: 900 });
  await page.goto(`${url}/docs`);
  await page.locator("details").first().waitFor();
  assert.ok((await page.locator("details").count()) > 10);
  await page.locator("summary", { hasText: "classify" }).first().click();
});
await shot("docs");

await browser.close();
if (problems.length) {
  console.error(problems.join("\n"));
  process.exit(1);
}
console.log("the page holds what it says");
