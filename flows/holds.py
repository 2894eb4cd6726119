"""holds: what is held, and releasing it by name and reason: `python -m flows.holds [release-shard | release-hold]`.

Without a subcommand it lists the held shards of the project or of a recipe's workspace.
"""

import argparse
import json
import sys
from pathlib import Path

from tasks.adapters import workspace
from tasks.adapters.commands import complaining
from tasks.adapters.workspace import Workspace
from tasks.preferences import bounds, shards


def listed(space: Workspace) -> str:
    lines = []
    for folder in shards.held(space.data):
        note = json.loads((folder / "hold.json").read_text(encoding="utf-8"))
        lines.append(f"{folder.name[:12]}  {note['entry']['rows']} rows for {note['entry']['dataset']}")
        lines += [f"    {line}" for line in note["holds"]]
    return "\n".join(lines) or "no shard is held"


def release_shard(space: Workspace, shard: str, by: str, reason: str) -> str:
    """Take a held shard in after all; the next run learns from it."""
    with space.held():
        taken = shards.release(shard, space.data, by, reason)
    return f"{taken.sha256[:12]}: released by {by}: {taken.rows} rows for {taken.dataset}; `make run` takes them in"


def release_hold(space: Workspace, hold: str, dataset: str, by: str, reason: str) -> str:
    """Let a dataset, exactly as it is now, pass a hold."""
    with space.held():
        made = bounds.release(space.data, hold, dataset, by, reason)
        if space.home != space.root:  # a recipe's workspace takes this file from the project with every run
            bounds.note(space.home / "data", made)
    path = space.home / "data/releases.json"
    return f"{hold} of {dataset} {made['sha256'][:12]}: released by {by} in {path}; commit it, then `make run`"


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.holds", description=__doc__)
    parser.add_argument("--recipe", help="the workspace of this recipe")
    commands = parser.add_subparsers(dest="command")
    for name, given in (("shard", ("--shard",)), ("hold", ("--hold", "--dataset"))):
        release = commands.add_parser(f"release-{name}")
        for option in (*given, "--by", "--reason"):
            release.add_argument(option, required=True)
    options = parser.parse_args(argv)
    space = workspace.existing_workspace(Path(), options.recipe)
    if options.command is None:
        said = listed(space)
    elif options.command == "release-shard":
        said = release_shard(space, options.shard, options.by, options.reason)
    else:
        said = release_hold(space, options.hold, options.dataset, options.by, options.reason)
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
