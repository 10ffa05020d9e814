// Opens a page in Chromium, and prints what it shows whenever that changes: a line of JSON with the text, and when the
// page was loaded. Usage: browser.mjs PROFILE URL.

import { spawn } from "node:child_process";
import readline from "node:readline";

const [profile, url] = process.argv.slice(2);
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"];
const browser = spawn("chromium", [...flags, "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "pipe"],
});
process.on("exit", () => browser.kill("SIGKILL"));
// The test's end closes the input.
process.stdin.on("end", () => process.exit()).resume();
browser.on("exit", () => process.exit(1));

const address = await new Promise((found) => {
  readline.createInterface({ input: browser.stderr }).on("line", (line) => {
    const said = /^DevTools listening on (.*)$/.exec(line);
    if (said) found(said[1]);
  });
});
const socket = new WebSocket(address);
await new Promise((done) => socket.addEventListener("open", done));

const waiting = new Map();
socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  if (message.method === "Runtime.bindingCalled") console.log(message.params.payload);
  if (message.error) console.error(message.error);
  waiting.get(message.id)?.(message.result);
});
let number = 0;
function ask(method, params, sessionId) {
  number += 1;
  socket.send(JSON.stringify({ id: number, method, params, sessionId }));
  return new Promise((done) => waiting.set(number, done));
}

function watch() {
  let last = "";
  const look = () => {
    const text = document.body?.innerText ?? "";
    if (text === last) return;
    last = text;
    tell(JSON.stringify({ text, loaded: performance.timeOrigin }));
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true, characterData: true });
}
const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
await ask("Runtime.enable", {}, sessionId);
await ask("Runtime.addBinding", { name: "tell" }, sessionId);
await ask("Page.enable", {}, sessionId);
await ask("Page.addScriptToEvaluateOnNewDocument", { source: `(${watch})()` }, sessionId);
await ask("Page.navigate", { url }, sessionId);
