"""The official Python SDK as a client: both eras, on stdio and HTTP. Prints what it saw as one JSON line."""

import asyncio
import json
import sys

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


def server(where):
    if where["transport"] == "stdio":
        return StdioServerParameters(
            command=where["command"][0], args=where["command"][1:], env=where["env"]
        )
    headers = {"Authorization": f"Bearer {where['token']}"}
    http = httpx2.AsyncClient(headers=headers, timeout=120)
    return streamable_http_client(where["url"], http_client=http)


async def main(where):
    steps = []

    async def progress(value, total, message):
        steps.append(message)

    async with Client(server(where), mode=where["mode"]) as client:
        tools = (await client.list_tools()).tools
        arguments = {"command": "echo hello; echo problem >&2; exit 3"}
        first = await client.call_tool("exec", arguments, progress_callback=progress)
        handle = (first.structured_content or {}).get("sandbox")
        again = {"command": "cat /tmp/kept"}
        keep = {"command": "echo kept >/tmp/kept"}
        for call in (keep, again):
            if handle:
                call["sandbox"] = handle
            second = await client.call_tool("exec", call)
        refused = await client.call_tool("exec", {"cmd": "ls"})
        print(
            json.dumps(
                {
                    "version": str(client.protocol_version),
                    "server": client.server_info.name,
                    "tools": [tool.name for tool in tools],
                    "first": first.structured_content,
                    "text": first.content[0].text,
                    "second": second.structured_content,
                    "refused": [refused.is_error, refused.content[0].text],
                    "progress": len(steps),
                    "handle": handle,
                }
            )
        )


asyncio.run(main(json.loads(sys.argv[1])))
