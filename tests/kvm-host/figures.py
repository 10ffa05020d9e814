#!/usr/bin/env python3
"""Measures the engines on one emulated host: krun, qemu on KVM, and microsandbox if it is
installed (PyPI package `microsandbox`, in PYTHONPATH). Run in the emulated host:

    tests/kvm-host/run --limit 900 python3 tests/kvm-host/figures.py target/release/snowglobe

Everything is measured in one run, since machines are noisy; compare the ratios.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = 40
BOOTS = 3


def milliseconds(seconds):
    return seconds * 1000


class Server:
    """`snowglobe serve`, spoken to over its standard streams."""

    def __init__(self, program, engine, accel, directory):
        environment = {
            **os.environ,
            "SNOWGLOBE_ENGINE": engine,
            "SNOWGLOBE_ACCEL": accel,
            "SNOWGLOBE_IMAGE": "minimal",
            "SNOWGLOBE_CPUS": "1",
            "SNOWGLOBE_MEMORY_MIB": "512",
            "SNOWGLOBE_BOOT_TIMEOUT_S": "120",
            "SNOWGLOBE_WORKSPACE_MODE": "none",
            "SNOWGLOBE_RUNTIME_DIR": str(directory),
        }
        self.process = subprocess.Popen(
            [program, "serve", "--rm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=directory,
        )
        self.number = 0
        about = {"name": "figures", "version": "1"}
        self.ask(
            "initialize",
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": about},
        )
        self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def say(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method, params):
        self.number += 1
        self.say({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        while True:
            answer = json.loads(self.process.stdout.readline())
            if answer.get("id") == self.number:
                return answer["result"]

    def true(self):
        result = self.ask("tools/call", {"name": "exec", "arguments": {"command": "true"}})
        assert not result.get("isError"), result

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def below(pid):
    """The processes below one, with their names."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if int(fields["PPid"]) == pid:
            child = int(fields["Pid"])
            found += [(fields["Name"].strip(), resident(child)), *below(child)]
    return found


def resident(pid):
    """What a process has in memory of its own, guest memory among it, in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def snowglobe(program, engine, accel):
    boots = []
    for _ in range(BOOTS):
        with tempfile.TemporaryDirectory() as directory:
            begun = time.monotonic()
            server = Server(program, engine, accel, directory)
            server.true()
            boots.append(time.monotonic() - begun)
            trips = []
            for _ in range(COMMANDS):
                begun = time.monotonic()
                server.true()
                trips.append(time.monotonic() - begun)
            memory = below(server.process.pid)
            server.close()
    return statistics.median(boots), statistics.median(trips), memory


def root_directory(directory):
    """A root of busybox alone."""
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "run"]:
        (directory / name).mkdir()
    (directory / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (directory / "bin/busybox").chmod(0o755)
    for name in ["sh", "true", "echo"]:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    return directory


async def microsandbox():
    from microsandbox import Network, Sandbox

    boots, trips = [], []
    with tempfile.TemporaryDirectory() as directory:
        root = root_directory(Path(directory))
        for number in range(BOOTS):
            begun = time.monotonic()
            sandbox = await Sandbox.create(
                f"figures-{number}",
                image=str(root),
                cpus=1,
                memory=512,
                network=Network.none(),
                replace=True,
            )
            output = await sandbox.shell("true")
            boots.append(time.monotonic() - begun)
            assert output.success, output.stderr_text
            trips = []
            for _ in range(COMMANDS):
                begun = time.monotonic()
                await sandbox.shell("true")
                trips.append(time.monotonic() - begun)
            await sandbox.stop()
    return statistics.median(boots), statistics.median(trips)


def main():
    program = str(Path(sys.argv[1]).resolve())
    krun = snowglobe(program, "krun", "auto")
    qemu = snowglobe(program, "qemu", "kvm")
    for name, (boot, trip, memory) in [("krun", krun), ("qemu on kvm", qemu)]:
        print(f"{name}")
        print(f"  spawn to first answer over MCP   {milliseconds(boot):9.0f} ms   (median of {BOOTS})")
        print(f"  exec true over MCP, p50          {milliseconds(trip):9.1f} ms   (of {COMMANDS})")
        for process, mib in memory:
            print(f"  memory of {process:<22} {mib:9.1f} MiB")
    print(f"krun to qemu: boot {krun[0] / qemu[0]:.2f}, exec true {krun[1] / qemu[1]:.2f}")
    sys.stdout.flush()
    try:
        boot, trip = asyncio.run(microsandbox())
    except ModuleNotFoundError:
        print("microsandbox is not installed")
        return
    print("microsandbox")
    print(f"  create to first output           {milliseconds(boot):9.0f} ms   (median of {BOOTS})")
    print(f"  a shell's `true`, p50            {milliseconds(trip):9.1f} ms   (of {COMMANDS})")
    print(f"krun to microsandbox: boot {krun[0] / boot:.2f}, command {krun[1] / trip:.2f}")


main()
