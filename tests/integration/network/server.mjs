// A web server, with TLS and without: repositories of git for those who know the token, a sum of what is sent, and a word.
// Usage: server.mjs CERTIFICATE KEY REPOSITORIES, with the token in TOKEN. Prints the ports, as one line of JSON.

import { spawn } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";

const [certificate, key, repositories] = process.argv.slice(2);
const wanted = `Basic ${Buffer.from(`me:${process.env.TOKEN}`).toString("base64")}`;

function answer(request, response) {
  const url = new URL(request.url, "https://git.test");
  if (url.pathname === "/sum") {
    const sum = crypto.createHash("sha256");
    return request.on("data", (piece) => sum.update(piece)).on("end", () => response.end(`${sum.digest("hex")}\n`));
  }
  if (!url.pathname.startsWith("/it.git/")) return response.end(`hello ${request.headers.host}\n`);
  if (request.headers.authorization !== wanted) {
    response.writeHead(401, { "www-authenticate": 'Basic realm="git"' });
    return response.end("who are you?\n");
  }
  const backend = spawn("git", ["http-backend"], {
    stdio: ["pipe", "pipe", "inherit"],
    env: {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: repositories,
      GIT_HTTP_EXPORT_ALL: "1",
      GIT_CONFIG_NOSYSTEM: "1",
      GIT_PROTOCOL: request.headers["git-protocol"] ?? "",
      REMOTE_USER: "me",
      REQUEST_METHOD: request.method,
      PATH_INFO: url.pathname,
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: request.headers["content-type"] ?? "",
      HTTP_CONTENT_ENCODING: request.headers["content-encoding"] ?? "",
    },
  });
  backend.stdin.on("error", () => {});
  request.pipe(backend.stdin);
  const pieces = [];
  const head = (piece) => {
    pieces.push(piece);
    const all = Buffer.concat(pieces);
    const end = all.indexOf("\r\n\r\n");
    if (end < 0) return;
    backend.stdout.off("data", head);
    for (const line of all.toString("latin1", 0, end).split("\r\n")) {
      const [name, value] = line.split(": ");
      if (name === "Status") response.statusCode = Number(value.slice(0, 3));
      else response.setHeader(name, value);
    }
    response.write(all.subarray(end + 4));
    backend.stdout.pipe(response);
  };
  backend.stdout.on("data", head);
}

// Without algorithms of signatures, TLS 1.2 means SHA-1, which only this level has.
const ciphers = "DEFAULT@SECLEVEL=0";
const tls = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key), ciphers };
const servers = { tls: https.createServer(tls, answer), plain: http.createServer(answer) };
const ports = {};
for (const [name, server] of Object.entries(servers)) {
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  ports[name] = server.address().port;
}
console.log(JSON.stringify(ports));
