// node chromium.mjs FOLDER COUNT PROMPT...
// Greedy text in a page of a headless Chromium, as JSON. CHROMIUM names the program, by default `chromium`;
// RUNTIME the build of ONNX Runtime, by default `ort-wasm-simd-threaded`.
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { serve } from "./serve.mjs";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-sync",
  "--disable-background-networking",
  "--disable-component-update",
  "--no-first-run",
];

/** Resolves with what the page posts; rejects when the browser ends before. */
function visit(server, url, profile) {
  const program = process.env.CHROMIUM ?? "chromium";
  const args = [...FLAGS, `--user-data-dir=${profile}`, url];
  const browser = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  browser.stderr.on("data", (data) => (said = (said + data).slice(-2000)));
  const gone = new Promise((resolve) => browser.once("close", resolve));
  const result = new Promise((resolve, reject) => {
    server.once("result", resolve);
    browser.once("error", reject);
    browser.once("exit", (code) => reject(new Error(`${program} ended with ${code}: ${said}`)));
  });
  return { result, close: () => (browser.kill(), gone) };
}

async function main([folder, count, ...prompts]) {
  if (!prompts.length) throw new Error("usage: node chromium.mjs FOLDER COUNT PROMPT...");
  const server = await serve(folder, 0, (result) => server.emit("result", result));
  const job = encodeURIComponent(JSON.stringify({ prompts, count: Number(count), runtime: process.env.RUNTIME }));
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "chromium-"));
  const page = visit(server, `http://localhost:${server.address().port}/?job=${job}`, profile);
  try {
    const result = await page.result;
    if (result.error) throw new Error(`the page: ${result.error}`);
    console.log(JSON.stringify(result));
  } finally {
    await page.close();
    server.closeAllConnections();
    server.close();
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
