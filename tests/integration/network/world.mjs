// The world outside of a sandbox, in a network of its own: the servers that it may reach, a resolver, and behind every
// other door a trap that notes who came. Usage: world.mjs PORTS CERTIFICATE KEY. Prints `ready`; for each line of its
// input it prints what it has seen, as one line of JSON.

import dgram from "node:dgram";
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import net from "node:net";
import readline from "node:readline";

const [ports, certificate, key] = process.argv.slice(2);
const port = JSON.parse(ports);
const seen = { trapped: [], names: [], requests: [] };

// Every request is answered with what it said: at once, in pieces, in a header, or with a way to somewhere else.
async function answer(request, response) {
  let body = "";
  for await (const piece of request) body += piece;
  const at = request.headers[":authority"] ?? request.headers.host;
  const token = request.headers.authorization ?? "";
  seen.requests.push({ version: request.httpVersion, at, path: request.url, headers: request.headers, body });
  if (request.url.startsWith("/redirect")) {
    response.writeHead(302, { location: `https://evil.test/?token=${token}` });
    return response.end();
  }
  response.setHeader("x-echo", token);
  if (request.url.startsWith("/pieces")) {
    for (const byte of token) {
      response.write(byte);
      await new Promise(setImmediate);
    }
    return response.end();
  }
  response.end(`${at} ${token} ${request.url} ${body}`);
}

// What a resolver of the public network says. `rebind.test` is first at an address where nobody is, then at this machine's.
let asked = 0;
function addresses(name, kind) {
  switch (name) {
    case "rebind.test": return [kind === 1 && asked++ % 2 ? [127, 0, 0, 1] : [203, 0, 113, 9]];
    case "private.test": return [[10, 1, 2, 3]];
    case "metadata.test": return [[169, 254, 169, 254]];
    case "loop.test": return [[127, 0, 0, 1]];
    case "own.test": return [[192, 0, 2, 80]];
    default: return null;
  }
}

function resolve(question) {
  const labels = [];
  let at = 12;
  while (question[at]) {
    labels.push(question.toString("latin1", at + 1, at + 1 + question[at]));
    at += 1 + question[at];
  }
  const name = labels.join(".").toLowerCase();
  seen.names.push(name);
  const kind = question.readUInt16BE(at + 1);
  const found = addresses(name, kind);
  const answers = kind === 1 && found ? found : [];
  const head = Buffer.from(question.subarray(0, at + 5));
  head.writeUInt16BE(found ? 0x8180 : 0x8183, 2);
  head.writeUInt16BE(answers.length, 6);
  head.writeUInt32BE(0, 8);
  const records = answers.map((address) => Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ...address]));
  return Buffer.concat([head, ...records]);
}

function listen(server, port, host) {
  return new Promise((done, failed) => server.once("error", failed).listen(port, host, done));
}

const trap = () => net.createServer((client) => {
  seen.trapped.push(`${client.localAddress}:${client.localPort}`);
  client.on("error", () => {});
  client.end("trapped");
});
for (const number of port.traps) await listen(trap(), number, "::");

const tls = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key), allowHTTP1: true };
await listen(http2.createSecureServer(tls, answer), port.tls, "127.0.0.1");
await listen(http.createServer(answer), port.plain, "127.0.0.1");
await listen(net.createServer((client) => client.on("error", () => {}).pipe(client)), port.echo, "127.0.0.1");
// It sends without end.
await listen(net.createServer((client) => {
  const piece = Buffer.alloc(65536, "x");
  const more = () => { while (client.write(piece)); };
  client.on("error", () => {}).on("drain", more);
  more();
}), port.flood, "127.0.0.1");

const resolver = dgram.createSocket("udp4", (question, from) => resolver.send(resolve(question), from.port, from.address));
await new Promise((done) => resolver.bind(53, "127.0.0.1", done));
for (const number of [443, 5353]) {
  const socket = dgram.createSocket("udp6", () => seen.trapped.push(`udp ${number}`));
  await new Promise((done) => socket.bind(number, "::", done));
}

console.log("ready");
readline.createInterface({ input: process.stdin }).on("line", () => console.log(JSON.stringify(seen)));
