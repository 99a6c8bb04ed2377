// Where the native binary is: each platform has a package of its own, which holds nothing else. They are optional
// dependencies, so that npm installs the one whose `os`, `cpu` and `libc` fit.
import { createRequire } from "node:module";

const PLATFORMS = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "win32-x64"];

/** The path of the binary; ONNXQ_BINARY goes before what is installed. */
export function binaryPath() {
  if (process.env.ONNXQ_BINARY) return process.env.ONNXQ_BINARY;
  const platform = `${process.platform}-${process.arch}`;
  const otherwise = "or a binary built with cargo, named in the variable ONNXQ_BINARY";
  if (!PLATFORMS.includes(platform)) {
    throw new Error(`onnxq has no package for ${platform}; expected one of ${PLATFORMS.join(", ")}, ${otherwise}`);
  }
  const name = `@onnxq/${platform}`;
  const file = `${name}/bin/onnxq${process.platform === "win32" ? ".exe" : ""}`;
  try {
    return createRequire(import.meta.url).resolve(file);
  } catch (cause) {
    const leftOut = "it was left out (--omit=optional), or node_modules comes from another platform";
    const why = isMusl() ? "it needs glibc, and this system has musl" : leftOut;
    const message = `the package ${name}, which holds the binary, is not installed: ${why}`;
    throw new Error(`${message}; expected it (npm install ${name}), ${otherwise}`, { cause });
  }
}

function isMusl() {
  if (process.platform !== "linux") return false;
  const report = process.report?.getReport();
  return report !== undefined && !report.header.glibcVersionRuntime;
}
