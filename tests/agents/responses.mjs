// The Responses protocol as Codex speaks it: tools of an MCP server come in a namespace, which aimock does not know.

import http from "node:http";

const read = async (request) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces));
};

// Starts a model that calls the tool once; tells `saw` the tools and the output. Answers its address.
export const start = async (saw, line) => {
  const server = http.createServer(async (request, answer) => {
    const asked = await read(request);
    const all = asked.tools.flatMap((tool) => (tool.tools ?? [tool]).map((each) => [tool.name, each.name]));
    const output = asked.input.find((item) => item.type === "function_call_output");
    const send = (type, more) => answer.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...more })}\n\n`);
    const item = output
      ? { type: "message", role: "assistant", id: "m", content: [{ type: "output_text", text: "the model is done" }] }
      : { type: "function_call", id: "f", call_id: "c", namespace: "mcp__snowglobe", name: "exec", arguments: JSON.stringify({ command: line }) };
    if (output) saw.result = JSON.stringify(output.output);
    else saw.tools = all.map(([space, name]) => (space === name ? name : `${space}__${name}`));
    answer.writeHead(200, { "Content-Type": "text/event-stream" });
    send("response.created", { response: { id: "r" } });
    send("response.output_item.done", { output_index: 0, item });
    const usage = { input_tokens: 1, output_tokens: 1, total_tokens: 2 };
    send("response.completed", { response: { id: "r", usage } });
    answer.end();
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
};
