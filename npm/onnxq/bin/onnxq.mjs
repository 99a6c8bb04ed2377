#!/usr/bin/env node
// The command: runs the native binary with the same arguments, streams, signals and exit status.
import { spawn } from "node:child_process";
import { binaryPath } from "../binary.mjs";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"];

function fail(message) {
  process.stderr.write(`onnxq: error: ${message}\n`);
  process.exitCode = 2;
}

function start(binary) {
  let child;
  const forward = (signal) => child.kill(signal);
  // Before the child is there: one that came in between would end this process alone.
  for (const signal of SIGNALS) process.on(signal, forward);
  child = spawn(binary, process.argv.slice(2), { stdio: "inherit" });
  child.on("error", (error) => fail(`cannot run \`${binary}\`: ${error.message}`));
  child.on("exit", (status, signal) => {
    for (const name of SIGNALS) process.off(name, forward);
    if (signal === null) process.exitCode = status;
    // Whoever waits for this process is to see what ended the other.
    else process.kill(process.pid, signal);
  });
}

try {
  start(binaryPath());
} catch (error) {
  fail(error.message);
}
