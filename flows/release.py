"""release: somebody moved the alias `champion` in the registry; release that version, or put the alias back.

`python -m flows.release` looks every --every seconds; --once looks once. Moving the alias back rolls back by the
same path. Exit status: 0 nothing to do or released; 1 refused; 2 bad input; 75 the workspace is held.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks import register
from tasks.adapters import champion, execution, registry, stage, workspace
from tasks.adapters.tracking import Store, TrackingError, reachable
from tasks.adapters.workspace import Workspace
from tasks.hashes import content_hash

OVERRIDE = "gate.override"  # a tag on a version: who releases it in spite of its verdict, and why
_SMOKE = """
import sys
from transformers import pipeline
generate = pipeline("text-generation", model=sys.argv[1])
reply = generate([{"role": "user", "content": "Hello"}], max_new_tokens=8)
assert isinstance(reply[0]["generated_text"], list), reply
"""
_SMOKE_SECONDS = 600.0


class RefusedError(Exception):
    """The version is not released; the message says why."""


def release(recipe: str | None = None) -> str:
    """Look at the alias once and act. Returns what was done, in a line.

    Raises RefusedError when the alias named a version that may not be released; it is then put back.
    """
    space = workspace.existing_workspace(Path(), recipe)
    store = Store.of(space.home)
    model, _ = register.names(space)
    client = store.client()
    with space.held(), reachable(store.uri):
        wanted = registry.aliased(client, model, "champion")
        released = champion.manifest(space.data)
        if wanted is None:
            return f"{model}: no version has the alias champion"
        if wanted == released.get("version") and champion.is_whole(space.data):
            _settle(client, model, released)
            return f"{model} version {wanted} is the released champion; nothing to do"
        try:
            _release(space, client, model, wanted)
        except RefusedError as error:
            _refuse(client, model, wanted, released, str(error))
            raise
        _settle(client, model, champion.manifest(space.data))
    return f"{model} version {wanted} released to {space.data / 'champion'}"


def _release(space: Workspace, client: Any, model: str, number: str) -> None:
    """Check the version by its own evidence, try it, and exchange the champion folder."""
    version = client.get_model_version(model, number)
    with tempfile.TemporaryDirectory(dir=_scratch(space)) as folder:
        package = registry.download(client, model, number, Path(folder))
        policy = registry.unpack_policy(package, Path(folder) / "plain")
        passport, reason = _permission(space, version, package, content_hash(policy))
        champion.prepare(
            space.data,
            policy,
            passport,
            {"model": model, "version": number, "policy_md5": passport["policy"]["md5"], "because": reason},
        )
    problem = smoke_test(space.data / ".champion-next/policy")
    if problem:
        champion.discard(space.data)
        raise RefusedError(f"it does not generate: {problem}")
    champion.exchange(space.data)


def _permission(space: Workspace, version: Any, package: Path, sha256: str) -> tuple[dict[str, Any], str]:
    """The passport that lets a version be released, and why it does. Raises RefusedError."""
    passports = [json.loads(path.read_text("utf-8")) for path in sorted(package.glob("passports/*/passport.json"))]
    passports = [passport for passport in passports if passport["policy"]["sha256"] == sha256]
    if not passports:
        raise RefusedError("its files are not the ones that its passport describes")
    released = champion.manifest(space.data)
    for entry in reversed(released.get("history", [])):
        if entry["policy_sha256"] == sha256:
            return passports[-1], f"released before, {entry['released_at']}"
    present = [each for each in passports if _opponent(each) == released.get("policy_md5")]
    verdicts = [(recompute(passport), passport) for passport in present]
    for verdict, passport in verdicts:
        if verdict == "pass":
            return passport, "pass"
    if override := version.tags.get(OVERRIDE, "").strip():
        return (present or passports)[-1], f"override: {override}"
    if not verdicts:
        raise RefusedError("it was never judged against the present champion; run `make run` first")
    raise RefusedError(f"its verdict is {verdicts[-1][0]!r} (an exception needs the tag {OVERRIDE} with a reason)")


def recompute(passport: dict[str, Any]) -> str:
    """The verdict, from the evaluation and the rules in the passport: tags can be edited by whoever promotes."""
    from tasks import gate

    params = gate.Params(**passport["gate"]["params"])
    verdict: str = gate.judge(params, passport["evaluation"])["verdict"]
    return verdict


def _opponent(passport: dict[str, Any]) -> str | None:
    """The champion that a verdict was against; None: SFT."""
    return (passport.get("champion") or {}).get("policy_md5")


def smoke_test(folder: Path) -> str | None:
    """Generate a few tokens in a process of its own; None, or what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SMOKE, str(folder)],
            env={**execution.quiet_environment(), **execution.OFFLINE},
            capture_output=True,
            text=True,
            timeout=_SMOKE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SMOKE_SECONDS:g} s"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit status {done.returncode}")


def _settle(client: Any, model: str, released: dict[str, Any]) -> None:
    """What the registry shows of a release; repeated until it is there, so a crash in between mends itself."""
    number = released["version"]
    if "released" not in client.get_model_version(model, number).tags:
        client.set_model_version_tag(model, number, "released", released["released_at"])
    earlier = [entry["version"] for entry in released["history"] if entry["version"] != number]
    if earlier and registry.aliased(client, model, "previous") != earlier[-1]:
        client.set_registered_model_alias(model, "previous", earlier[-1])


def _refuse(client: Any, model: str, number: str, released: dict[str, Any], reason: str) -> None:
    """Say why on the version, and put the alias back to what is released; a refused first champion loses it."""
    client.set_model_version_tag(model, number, "release.refused", reason[:5000])
    if released:
        client.set_registered_model_alias(model, "champion", released["version"])
    else:
        client.delete_registered_model_alias(model, "champion")


def _scratch(space: Workspace) -> Path:
    folder = space.data / "runs/release"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.release", description=__doc__)
    parser.add_argument("--once", action="store_true", help="look once, then end")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--recipe", help="the recipe whose workspace it is about")
    options = parser.parse_args(argv)
    last = ""
    while True:
        status, text = _look(options.recipe)
        if text != last:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
            last = text
        if options.once:
            return status
        time.sleep(options.every)


def _look(recipe: str | None) -> tuple[int, str]:
    try:
        return 0, release(recipe)
    except RefusedError as error:
        return 1, f"refused: {error}"
    except TrackingError as error:
        return 1, f"error: {error}"
    except stage.BusyError as error:
        return stage.BUSY, f"error: {error}"
    except (ValueError, FileNotFoundError) as error:
        return stage.BAD_INPUT, f"error: {error}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
