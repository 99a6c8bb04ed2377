// Assembles the npm packages, and packs them:
//
//   node npm/build.mjs OUT [PLATFORM=BINARY ...]
//
// `onnxq`, and `@onnxq/PLATFORM` for each binary; without any, target/release/onnxq for the platform that this runs on.
// The version is that of Cargo.toml. OUT gets a folder and a tarball of each.
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(HERE);

// The Linux binaries are linked with glibc; npm leaves them out where there is musl.
const PLATFORMS = {
  "linux-x64": { os: ["linux"], cpu: ["x64"], libc: ["glibc"] },
  "linux-arm64": { os: ["linux"], cpu: ["arm64"], libc: ["glibc"] },
  "darwin-x64": { os: ["darwin"], cpu: ["x64"] },
  "darwin-arm64": { os: ["darwin"], cpu: ["arm64"] },
  "win32-x64": { os: ["win32"], cpu: ["x64"] },
};

function fail(message) {
  process.stderr.write(`build.mjs: ${message}\n`);
  process.exit(2);
}

function version() {
  const found = /^\[package\][^[]*?^version = "([^"]+)"/ms.exec(readFileSync(join(ROOT, "Cargo.toml"), "utf8"));
  return found?.[1] ?? fail("Cargo.toml has no version under [package]");
}

function writePackage(folder, description) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(description, null, 2)}\n`);
  copyFileSync(join(ROOT, "LICENSE"), join(folder, "LICENSE"));
}

function programName(platform) {
  return platform.startsWith("win32") ? "onnxq.exe" : "onnxq";
}

function mainPackage(out, version) {
  const folder = join(out, "onnxq");
  rmSync(folder, { recursive: true, force: true });
  cpSync(join(HERE, "onnxq"), folder, { recursive: true });
  const description = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const names = Object.keys(PLATFORMS).map((platform) => `@onnxq/${platform}`);
  const optionalDependencies = Object.fromEntries(names.map((name) => [name, version]));
  writePackage(folder, { ...description, version, optionalDependencies });
  return folder;
}

function platformPackage(out, version, platform, binary) {
  const folder = join(out, `onnxq-${platform}`);
  rmSync(folder, { recursive: true, force: true });
  const name = programName(platform);
  writePackage(folder, {
    name: `@onnxq/${platform}`,
    version,
    description: `The binary of onnxq for ${platform}`,
    license: "MIT",
    ...PLATFORMS[platform],
    // Yarn must not leave a program inside an archive.
    preferUnplugged: true,
    files: ["bin"],
  });
  writeFileSync(join(folder, "README.md"), `The binary of \`onnxq\` for ${platform}; the package \`onnxq\` uses it.\n`);
  mkdirSync(join(folder, "bin"));
  copyFileSync(binary, join(folder, "bin", name));
  chmodSync(join(folder, "bin", name), 0o755);
  return folder;
}

function pack(folder, out) {
  const windows = process.platform === "win32";
  const args = ["pack", folder, "--pack-destination", out, "--loglevel", "error"];
  return execFileSync(windows ? "npm.cmd" : "npm", args, { encoding: "utf8", shell: windows }).trim();
}

const [folder, ...given] = process.argv.slice(2);
if (!folder) fail("usage: node npm/build.mjs OUT [PLATFORM=BINARY ...]");
// npm takes `out/onnxq` for a repository.
const out = resolve(folder);
const host = `${process.platform}-${process.arch}`;
const built = join(ROOT, "target", "release", programName(host));
const binaries = (given.length ? given : [`${host}=${built}`]).map((pair) => {
  const [platform, binary] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
  if (!(platform in PLATFORMS)) fail(`platform in \`${pair}\`, expected one of ${Object.keys(PLATFORMS).join(", ")}`);
  if (!existsSync(binary)) fail(`there is no binary \`${binary}\`; cargo build --release makes one for this platform`);
  return [platform, binary];
});
const number = version();
const folders = [mainPackage(out, number)];
for (const [platform, binary] of binaries) folders.push(platformPackage(out, number, platform, binary));
for (const assembled of folders) process.stdout.write(`${join(out, pack(assembled, out))}\n`);
