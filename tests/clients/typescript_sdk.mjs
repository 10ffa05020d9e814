// The official TypeScript SDK as a client, on stdio and HTTP. Prints what it saw as one JSON line.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const where = JSON.parse(process.argv[2]);
const transport =
  where.transport === "stdio"
    ? new StdioClientTransport({ command: where.command[0], args: where.command.slice(1), env: where.env })
    : new StreamableHTTPClientTransport(new URL(where.url), {
        requestInit: { headers: { Authorization: `Bearer ${where.token}` } },
      });
const client = new Client({ name: "typescript", version: "1" });
await client.connect(transport);
const patient = { timeout: 120_000 };
let progress = 0;
const heard = { ...patient, onprogress: () => (progress += 1) };
const call = (name, args, options = patient) => client.callTool({ name, arguments: args }, undefined, options);

const tools = await client.listTools();
const first = await call("exec", { command: "echo hello; echo problem >&2; exit 3" }, heard);
await call("exec", { command: "echo kept >/tmp/kept" });
const second = await call("exec", { command: "cat /tmp/kept" });
const refused = await call("exec", { cmd: "ls" });
console.log(
  JSON.stringify({
    server: client.getServerVersion().name,
    tools: tools.tools.map((tool) => tool.name),
    first: first.structuredContent,
    text: first.content[0].text,
    second: second.structuredContent,
    refused: [refused.isError, refused.content[0].text],
    progress,
  }),
);
if (transport.terminateSession) await transport.terminateSession();
await client.close();
