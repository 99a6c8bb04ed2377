// node serve.mjs FOLDER [PORT]
// Serves the page, node_modules and a model folder on localhost.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const types = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
const headers = {
  // With these two a page may share memory, so that WASM computes on several threads.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cache-Control": "no-store",
};

/** The nearest `node_modules` from here upwards, as Node finds it. */
function nodeModules() {
  for (let folder = here; ; folder = path.dirname(folder)) {
    const found = path.join(folder, "node_modules");
    if (fs.existsSync(found)) return found;
    if (folder === path.dirname(folder)) throw new Error("no node_modules: run `npm install --ignore-scripts`");
  }
}

/** The file that `url` names, or null where it leaves its folder. */
function locate(url, roots) {
  const name = decodeURIComponent(new URL(url, "http://localhost").pathname);
  const prefix = Object.keys(roots).find((p) => name.startsWith(p));
  const file = path.join(roots[prefix], name.slice(prefix.length) || "index.html");
  return path.relative(roots[prefix], file).startsWith("..") ? null : file;
}

function send(response, file) {
  const found = file && fs.statSync(file, { throwIfNoEntry: false });
  if (!found?.isFile()) {
    response.writeHead(404, headers).end();
    return;
  }
  const type = types[path.extname(file)] ?? "application/octet-stream";
  response.writeHead(200, { ...headers, "Content-Type": type, "Content-Length": found.size });
  fs.createReadStream(file).pipe(response);
}

/**
 * Starts the server; `onResult` gets what a page posts to /result.
 *
 * @returns {Promise<http.Server>}
 */
export function serve(folder, port, onResult = () => {}) {
  const roots = { "/node_modules/": nodeModules(), "/models/": path.resolve(folder), "/": here };
  const server = http.createServer(async (request, response) => {
    if (request.method !== "POST") {
      send(response, locate(request.url, roots));
      return;
    }
    const body = await request.toArray();
    response.writeHead(204, headers).end();
    onResult(JSON.parse(Buffer.concat(body).toString("utf8")));
  });
  return new Promise((resolve) => server.listen(port, "localhost", () => resolve(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, port = "8000"] = process.argv.slice(2);
  if (!folder) {
    console.error("usage: node serve.mjs FOLDER [PORT]");
    process.exit(2);
  }
  await serve(folder, Number(port));
  console.log(`http://localhost:${port}/`);
}
