"""inbox: what lies in data/inbox/ is fresh data. `python -m flows.inbox` takes it in once and runs the main job.

A file, an archive or a folder is a shard. It then moves to done/, or to refused/ or held/ with the reason beside it.
Exit status: that of the main job; where it is 0, 2 if something was refused, 5 if something is held.
"""

import argparse
import os
import sys
from pathlib import Path

from flows import retrain as job
from tasks.adapters import stage, workspace
from tasks.adapters.commands import complaining
from tasks.preferences.screen import HeldError

INBOX = Path("data/inbox")
_ASIDE = ("done", "refused", "held")
_UNFINISHED = ".part"


def waiting() -> list[Path]:
    """What can be taken in, oldest first. Write elsewhere and rename into the inbox, or end names in `.part`."""
    return sorted((path for path in _given() if not _unfinished(path)), key=lambda p: (p.stat().st_mtime, p.name))


def left() -> list[str]:
    """Why the rest stays where it is, a line each."""
    return [f"{path}: left in the inbox: {why}" for path in _given() if (why := _unfinished(path))]


def _given() -> list[Path]:
    INBOX.mkdir(parents=True, exist_ok=True)
    return sorted(path for path in INBOX.iterdir() if path.name[0] != "." and path.name not in _ASIDE)


def _unfinished(path: Path) -> str:
    """Why a path is not yet, or never, a shard; empty where it is one."""
    if path.suffix == _UNFINISHED:
        return f"its name ends in {_UNFINISHED}; rename it when it is complete"
    if path.is_dir():
        inside = [each for each in path.rglob("*") if not each.is_dir()]
        if not inside:
            return "an empty folder; put its files there"
        parts = [each.name for each in inside if each.suffix == _UNFINISHED]
        return f"{parts[0]} in it is not complete; rename it when it is" if parts else ""
    return "" if path.is_file() else "neither a file nor a folder; remove it"


def taken(shard: Path) -> bool:
    return take_in(shard) == 0


def take_in(shard: Path) -> int:
    """Accept one shard, and an exit status; a refused or held one moves aside with its reason and blocks nothing."""
    space = workspace.open_workspace(Path())
    try:
        with space.held():
            job.take(space, shard)
    except (ValueError, FileNotFoundError) as error:
        return _aside(shard, "refused", error, stage.BAD_INPUT)
    except HeldError as error:
        return _aside(shard, "held", error, stage.HELD)
    return 0


def _aside(shard: Path, where: str, error: Exception, status: int) -> int:
    moved = move(shard, where)
    stem = moved.name if moved.is_dir() else moved.stem
    moved.with_name(f"{stem}.reason.txt").write_text(f"{error}\n", encoding="utf-8")
    sys.stderr.write(f"{where}: {error}\n")
    return status


def move(shard: Path, where: str) -> Path:
    """To a folder of the inbox, under a name that is free there."""
    folder = INBOX / where
    folder.mkdir(exist_ok=True)
    stem, suffix = (shard.name, "") if shard.is_dir() else (shard.stem, shard.suffix)
    target, number = folder / shard.name, 1
    while os.path.lexists(target):
        number += 1
        target = folder / f"{stem}-{number}{suffix}"
    return shard.replace(target)


@complaining
def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m flows.inbox", description=__doc__).parse_args(argv)
    shards = waiting()
    for line in left():
        job.say(line)
    if not shards:
        job.say(f"no new shard in {INBOX}; nothing to do")
        return 0
    statuses = {shard: take_in(shard) for shard in shards}
    accepted = [shard for shard, status in statuses.items() if status == 0]
    if accepted:
        if status := job.main([]):
            return status  # the next time goes on with them: the same shard twice is one shard
        for shard in accepted:
            move(shard, "done")
    return max(statuses.values())


if __name__ == "__main__":
    sys.exit(main())
