// A scripted model, and an agent that talks to it. The model calls the tool that runs commands once, reads its
// output, and is done. Prints what the model saw, and what the agent said, as one JSON line.

import { spawn } from "node:child_process";
import { LLMock } from "@copilotkit/aimock";
import * as responses from "./responses.mjs";

const { protocol, command, env, cwd, line } = JSON.parse(process.argv[2]);
const saw = { tools: [], result: null };

// Every other agent's wire protocol.
const start = async () => {
  const names = (request) => (request.tools ?? []).map((tool) => tool.function.name);
  const exec = (request) => names(request).find((name) => /(^|_)snowglobe_+exec$/.test(name));
  const result = (request) => request.messages.find((message) => message.role === "tool");
  const model = new LLMock({ port: 0, host: "127.0.0.1", logLevel: "silent" });
  model.on({ predicate: (request) => exec(request) && !result(request) }, (request) => {
    saw.tools = names(request);
    return { toolCalls: [{ name: exec(request), arguments: JSON.stringify({ command: line }) }] };
  });
  model.on({ predicate: () => true }, (request) => {
    if (result(request)) saw.result = JSON.stringify(result(request).content);
    return { content: "the model is done" };
  });
  await model.start();
  return model;
};

const model = protocol === "responses" ? await responses.start(saw, line) : await start();
const fill = (text) => text.replaceAll("{model}", model.url);
const agent = spawn(command[0], command.slice(1).map(fill), {
  cwd,
  env: Object.fromEntries(Object.entries(env).map(([name, value]) => [name, fill(value)])),
  stdio: ["ignore", "pipe", "pipe"],
});
let said = "";
for (const stream of [agent.stdout, agent.stderr]) stream.on("data", (data) => (said += data));
const code = await new Promise((done) => agent.on("close", done));
await model.stop();
console.log(JSON.stringify({ ...saw, code, said }));
process.exit(0);
