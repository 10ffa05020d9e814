"""The official Python SDK as a client: both eras, on stdio and HTTP. Prints what it saw as one JSON line."""

import asyncio
import json
import sys

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult, ResourceUpdatedNotification


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
    asked = []
    updates = asyncio.Queue()

    async def progress(value, total, message):
        steps.append(message)

    async def person(context, params):
        asked.append(params.message)
        if len(asked) == 1:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={})

    async def heard(message):
        if isinstance(message, ResourceUpdatedNotification):
            updates.put_nowait(str(message.params.uri))

    async with Client(
        server(where),
        mode=where["mode"],
        elicitation_callback=person,
        message_handler=heard,
    ) as client:
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

        async def call(tool, **arguments):
            if handle:
                arguments["sandbox"] = handle
            return await client.call_tool(tool, arguments)

        # A job says something once it is listened to.
        job = await call("exec", command="read line; echo $line", background=True, keep_stdin=True)
        job = job.structured_content

        async def speak():
            await call("job", action="input", id=job["job_id"], input="said\n")

        if where["mode"] == "legacy":
            await client.subscribe_resource(job["job_uri"])
            await speak()
            updated = await asyncio.wait_for(updates.get(), 30)
        else:
            async with client.listen(resource_subscriptions=[job["job_uri"]]) as events:
                events = aiter(events)
                # How it stands is told at once, then what changes.
                await asyncio.wait_for(anext(events), 30)
                await speak()
                updated = str((await asyncio.wait_for(anext(events), 30)).uri)

        # A person is asked before the machine is given up: the first time it says no.
        declined = await call("reboot")
        kept = await call("exec", command="cat /tmp/kept")
        rebooted = await call("reboot")
        gone = await call("exec", command="cat /tmp/kept")
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
                    "updated": [updated, job["job_uri"]],
                    "asked": asked,
                    "declined": [declined.is_error, declined.content[0].text],
                    "kept": kept.structured_content["exit_code"],
                    "rebooted": rebooted.is_error,
                    "gone": gone.structured_content["exit_code"],
                }
            )
        )


asyncio.run(main(json.loads(sys.argv[1])))
