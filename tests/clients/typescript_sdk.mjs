// The official TypeScript SDK as a client, of either generation, on stdio and HTTP. Prints what it saw as one JSON line.

const where = JSON.parse(process.argv[2]);
const old = where.mode === "v1";
const [{ Client }, { StdioClientTransport }, { StreamableHTTPClientTransport }] = old
  ? await Promise.all([
      import("@modelcontextprotocol/sdk/client/index.js"),
      import("@modelcontextprotocol/sdk/client/stdio.js"),
      import("@modelcontextprotocol/sdk/client/streamableHttp.js"),
    ])
  : await Promise.all([
      import("@modelcontextprotocol/client"),
      import("@modelcontextprotocol/client/stdio"),
      import("@modelcontextprotocol/client"),
    ]);
const transport =
  where.transport === "stdio"
    ? new StdioClientTransport({ command: where.command[0], args: where.command.slice(1), env: where.env })
    : new StreamableHTTPClientTransport(new URL(where.url), {
        requestInit: { headers: { Authorization: `Bearer ${where.token}` } },
      });
const mode = where.mode === "legacy" ? "legacy" : { pin: where.mode };
const client = new Client({ name: "typescript", version: "1" }, old ? {} : { versionNegotiation: { mode } });
await client.connect(transport);
let progress = 0;
const patient = { timeout: 120_000 };
const heard = { ...patient, onprogress: () => (progress += 1) };
const call = (name, args, options = patient) => {
  const params = { name, arguments: args };
  return old ? client.callTool(params, undefined, options) : client.callTool(params, options);
};

const tools = await client.listTools();
const first = await call("exec", { command: "echo hello; echo problem >&2; exit 3" }, heard);
const handle = first.structuredContent.sandbox;
const same = handle ? { sandbox: handle } : {};
await call("exec", { command: "echo kept >/tmp/kept", ...same });
const second = await call("exec", { command: "cat /tmp/kept", ...same });
const refused = await call("exec", { cmd: "ls", ...same });
console.log(
  JSON.stringify({
    version: old ? "2025-11-25" : client.getNegotiatedProtocolVersion(),
    server: client.getServerVersion().name,
    tools: tools.tools.map((tool) => tool.name),
    first: first.structuredContent,
    text: first.content[0].text,
    second: second.structuredContent,
    refused: [refused.isError, refused.content[0].text],
    progress,
    handle,
  }),
);
if (transport.terminateSession) await transport.terminateSession();
await client.close();
