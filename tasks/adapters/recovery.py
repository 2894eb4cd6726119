"""What a killed run leaves behind in a workspace, cleared before the next one: processes, dead locks, a torn dvc.lock.

Every function expects the workspace lock to be held.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from tasks.adapters import execution, stage
from tasks.adapters.graph import LOCK
from tasks.files import parse_yaml, write_text


def clear(root: Path) -> None:
    """Make the workspace usable. Raises BusyError, naming it, for a DVC process that is alive."""
    end_orphans(root)
    clear_dead_locks(root)
    clear_torn_lock(root)


def end_orphans(root: Path) -> list[int]:
    """End what a killed flow run left running in this workspace."""
    me = psutil.Process()
    spared = {process.pid for process in (me, *me.parents(), *me.children(recursive=True))}
    orphans = [process for process in marked(root) if process.pid not in spared]
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(orphans, timeout=execution.SECONDS_TO_DIE)
    return [process.pid for process in orphans]


def marked(root: Path) -> list[psutil.Process]:
    """The processes that a flow run started in this workspace."""
    return [process for process in psutil.process_iter() if _mark(process) == str(root.resolve())]


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(execution.MARK)
    except (psutil.Error, OSError):
        return None  # another user's, or gone meanwhile


def clear_dead_locks(root: Path) -> None:
    """Take dead processes out of DVC's lock table; raise BusyError, naming it, for a live one."""
    path = root / ".dvc/tmp/rwlock"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # torn by a kill: the lock of the workspace is ours
        path.unlink(missing_ok=True)
        return
    for entries in (table.get("read", {}).values(), ([entry] for entry in table.get("write", {}).values())):
        for entry in (entry for group in entries for entry in group):
            if psutil.pid_exists(entry["pid"]) and _is_dvc(entry["pid"]):
                raise stage.BusyError(
                    f"DVC is at work here: pid {entry['pid']} ({entry['cmd']}); wait for it or end it, then run again"
                )
    path.unlink()


def _is_dvc(pid: int) -> bool:
    """Process ids are used again: only one that looks like DVC counts as a holder."""
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def clear_torn_lock(root: Path) -> bool:
    """Cut a dvc.lock that a killed `dvc` left half-written back to its last whole stage.

    What is cut off costs no computation: DVC's run cache knows the results.
    """
    path = root / LOCK
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    if text is None or (text.endswith("\n") and _is_lock(text)):
        return False
    starts = [match.start() for match in re.finditer(r"^  \S", text, re.MULTILINE)]
    whole = text[: starts[-1]] if starts else ""
    if _is_lock(whole):
        write_text(path, whole)
    else:
        path.unlink()
    return True


def _is_lock(text: str) -> bool:
    try:
        document = parse_yaml(text)
    except yaml.YAMLError:
        return False
    return isinstance(document, dict) and isinstance(document.get("stages"), dict)
