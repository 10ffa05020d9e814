// The Responses protocol as Codex uses it: an MCP server's tools are in a namespace, which aimock does not support.

import http from "node:http";

const read = async (request) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces));
};

// Starts a model that makes these calls in order; passes the tools to `saw`, and each request to `keep`. Returns its
// address.
export const start = async (saw, calls, keep) => {
  const server = http.createServer(async (request, answer) => {
    const asked = await read(request);
    keep(asked);
    const all = asked.tools.flatMap((tool) => (tool.tools ?? [tool]).map((each) => [tool.name, each.name]));
    const done = asked.input.filter((item) => item.type === "function_call_output").length;
    const send = (type, more) => answer.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...more })}\n\n`);
    const next = calls[done];
    const item = next
      ? { type: "function_call", id: `f${done}`, call_id: `c${done}`, namespace: "mcp__snowglobe", name: next.tool, arguments: JSON.stringify(next.arguments) }
      : { type: "message", role: "assistant", id: "m", content: [{ type: "output_text", text: "the model is done" }] };
    if (next) saw.tools = all.map(([space, name]) => (space === name ? name : `${space}__${name}`));
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
