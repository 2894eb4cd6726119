"""reproduce: make a registered version again from its record and compare the hashes.

`python -m flows.reproduce VERSION`: clones the commit that pins the version into data/workspaces/, restores its
policy by hash from the DVC cache, then computes it anew (unless --restore-only). Exit status: 0 the same hash;
1 another one; 2 bad input.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks import register
from tasks.adapters import execution, graph, workspace
from tasks.adapters.commands import complaining
from tasks.adapters.tracking import Store, reachable
from tasks.adapters.workspace import Workspace


def reproduce(number: str, recipe: str | None, restore_only: bool) -> bool:
    """Whether the policy of a version comes out with the recorded hash; says what it does on stdout."""
    space = workspace.existing_workspace(Path(), recipe)
    version = find(space, number)
    wanted: str = version.tags["policy.md5"]
    root = workspace.clone_at(space, version.tags["git.commit"], f"reproduce-{space.name}-{number}")
    with Workspace(root, space.home).held():
        restored = restore(root)
        say(f"restored by hash: {restored or 'not in the DVC cache'} (recorded {wanted})")
        if restore_only:
            return restored == wanted
        compute(root)
        computed = register.policy_md5(graph.read_lock(root))
    say(f"computed anew:    {computed} (recorded {wanted})")
    return computed == wanted


def find(space: Workspace, number: str) -> Any:
    """The registered version. Raises ValueError when there is none or its record is not complete."""
    store = Store.of(space.home)
    model, _ = register.names(space)
    client = store.client()
    with reachable(store.uri):
        versions = client.search_model_versions(f"name='{model}'")
    found = {str(version.version): version for version in versions}
    if number not in found:
        raise ValueError(f"VERSION {number}: {model} has {', '.join(sorted(found)) or 'no version'}")
    if len(found[number].tags.get("git.commit", "none").split()) > 1:
        raise ValueError(f"VERSION {number}: it was made outside git; no commit pins it")
    return found[number]


def restore(root: Path) -> str | None:
    """Put the recorded policy in place from the cache; its hash, None where the cache does not hold it."""
    # Fresh shards are no output of a stage: without them the version cannot be computed anew.
    sources = [path.relative_to(root).as_posix() for path in sorted((root / "data/shards").glob("*.dvc"))]
    code = _dvc(root, "checkout", "--force", "--quiet", register.POLICY, *sources)
    return None if code else register.policy_md5(graph.read_lock(root))


def compute(root: Path) -> None:
    """Run the stage that writes the policy, and all that it rests on, whatever the caches hold."""
    if _dvc(root, "repro", "--force", "--no-run-cache", register.policy_stage(graph.read_lock(root))):
        raise ValueError(f"{root}: `dvc repro` failed; its output is above")


def _dvc(root: Path, *arguments: str) -> int:
    step = graph.Step("align", (), changed=True, forced=True, training=True, deadline=None)
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, env=execution.environment(root, step), check=False).returncode


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description=__doc__)
    parser.add_argument("version", metavar="VERSION")
    parser.add_argument("--recipe", help="the recipe whose model it is")
    parser.add_argument("--restore-only", action="store_true", help="do not compute it anew")
    options = parser.parse_args(argv)
    same = reproduce(options.version, options.recipe, options.restore_only)
    say("the same" if same else "NOT the same")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
