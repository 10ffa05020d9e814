// A scripted model, and an agent that talks to it. The model makes the given calls in order, then ends. Prints one JSON
// line: the tools that the model was offered, the conversation as the agent last sent it, and the agent's output.

import http from "node:http";
import { spawn } from "node:child_process";
import { LLMock } from "@copilotkit/aimock";
import * as responses from "./responses.mjs";

const { protocol, command, env, cwd, calls } = JSON.parse(process.argv[2]);
const saw = { tools: [], conversation: [] };

// Keeps the longest conversation: agents ask for titles and summaries, too.
const keep = (body) => {
  const conversation = body.messages ?? body.contents ?? body.input;
  if (JSON.stringify(conversation ?? []).length > JSON.stringify(saw.conversation).length) saw.conversation = conversation;
};

// Every other agent's wire protocol.
const start = async () => {
  const names = (request) => (request.tools ?? []).map((tool) => tool.function.name);
  const ours = (request, tool) => names(request).find((name) => new RegExp(`(^|_)snowglobe_+${tool}$`).test(name));
  const next = (request) => calls[request.messages.filter((message) => message.role === "tool").length];
  const model = new LLMock({ port: 0, host: "127.0.0.1", logLevel: "silent" });
  model.on({ predicate: (request) => ours(request, "exec") && next(request) }, (request) => {
    saw.tools = names(request);
    const { tool, arguments: given } = next(request);
    // A client without sessions is told the sandbox's handle, to be passed from then on.
    const handle = JSON.stringify(request.messages).match(/sb-[0-9a-f]{32}/)?.[0];
    const all = handle ? { ...given, sandbox: handle } : given;
    return { toolCalls: [{ name: ours(request, tool), arguments: JSON.stringify(all) }] };
  });
  model.on({ predicate: () => true }, () => ({ content: "the model is done" }));
  await model.start();
  return model;
};

// Stands before the model, which hands on only what it understands of a request.
const listen = async (model) => {
  const server = http.createServer(async (request, answer) => {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const body = Buffer.concat(pieces);
    try {
      keep(JSON.parse(body));
    } catch {
      // Not every request is one to the model.
    }
    const { method, headers } = request;
    const passed = http.request(new URL(request.url, model.url), { method, headers }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      response.pipe(answer);
    });
    passed.end(body);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return `http://127.0.0.1:${server.address().port}`;
};

const model = protocol === "responses" ? await responses.start(saw, calls, keep) : await start();
const url = protocol === "responses" ? model.url : await listen(model);
const fill = (text) => text.replaceAll("{model}", url);
const agent = spawn(command[0], command.slice(1).map(fill), {
  cwd,
  env: Object.fromEntries(Object.entries(env).map(([name, value]) => [name, fill(value)])),
  stdio: ["ignore", "pipe", "pipe"],
});
let said = "";
for (const stream of [agent.stdout, agent.stderr]) stream.on("data", (data) => (said += data));
const code = await new Promise((done) => agent.on("close", done));
await model.stop();
process.stdout.write(`${JSON.stringify({ ...saw, code, said })}\n`, () => process.exit(0));
