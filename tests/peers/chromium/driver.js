// Drives headless Chromium for tests/web_browser.rs: one JSON command a line on stdin, one JSON answer a line on
// stdout. Answers are {"ok": VALUE} or {"error": TEXT}.
"use strict";

const readline = require("node:readline");
const modules = process.env.PLAYWRIGHT_MODULES;
const { chromium } = require(`${modules}/playwright-core`);

const seen = { errors: [], dialogs: [], requests: [] };
let browser;
let page;

async function open({ url, width, height, dark }) {
  browser ??= await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  const context = await browser.newContext({
    viewport: { width: width ?? 1280, height: height ?? 800 },
    colorScheme: dark ? "dark" : "light",
    timezoneId: "UTC",
    ignoreHTTPSErrors: true,
    permissions: ["clipboard-read", "clipboard-write"],
  });
  await page?.context().close();
  seen.requests.length = 0;
  page = await context.newPage();
  page.setDefaultTimeout(15000);
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => {
    // a request that is refused is a part of some tests
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) seen.errors.push(message.text());
  });
  page.on("dialog", (dialog) => {
    seen.dialogs.push(dialog.message());
    dialog.dismiss();
  });
  page.on("request", (request) => seen.requests.push(request.url()));
  await page.goto(url, { waitUntil: "domcontentloaded" });
}

const commands = {
  open,
  text: async ({ at }) => (await page.locator(at).allTextContents()).join("\n"),
  count: async ({ at }) => page.locator(at).count(),
  visible: async ({ at }) => page.locator(at).first().isVisible(),
  click: async ({ at }) => page.locator(at).first().click(),
  fill: async ({ at, text }) => page.locator(at).first().fill(text),
  press: async ({ key }) => page.keyboard.press(key),
  eval: async ({ script }) => page.evaluate(script),
  shot: async ({ path }) => void (await page.screenshot({ path })),
  seen: async () => seen,
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      const command = JSON.parse(line);
      answer = { ok: (await commands[command.do](command)) ?? null };
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  await browser?.close();
})();
