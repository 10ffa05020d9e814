"""Opens a folder as editors, agents and shells do: runs what its settings have them run, without a question.

Each part does what the documentation of one program says: tasks that run when a folder is opened, programs that settings
name, servers of MCP, hooks of an agent, a directory's environment, a project's vimrc.
"""

import json
import pathlib
import subprocess
import sys


def settings(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def run(command, folder):
    subprocess.run(command, shell=isinstance(command, str), cwd=folder, check=False, stdin=subprocess.DEVNULL)


def main(folder):
    for tasks in [folder / ".vscode/tasks.json", folder / ".theia/tasks.json"]:
        for task in settings(tasks).get("tasks", []):
            if task.get("runOptions", {}).get("runOn") == "folderOpen":
                run(task["command"], folder)
    for name in [".vscode/settings.json", *[path.name for path in folder.glob("*.code-workspace")]]:
        found = settings(folder / name)
        for key, program in found.get("settings", found).items():
            if key.lower().endswith(("path", "executable")) and isinstance(program, str):
                run([program, "--version"], folder)
    for name in [".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json"]:
        found = settings(folder / name)
        for server in {**found.get("mcpServers", {}), **found.get("servers", {})}.values():
            run([server["command"], *server.get("args", [])], folder)
    for name in [".claude/settings.json", ".claude/settings.local.json"]:
        for hook in settings(folder / name).get("hooks", {}).get("SessionStart", []):
            for one in hook["hooks"]:
                run(one["command"], folder)
    for name in [".envrc", ".exrc", ".zed/tasks.json"]:
        if (folder / name).is_file():
            run(["sh", folder / name], folder)


main(pathlib.Path(sys.argv[1]))
