"""retrain: fresh preferences in, a gated challenger in the registry. The main job: `python -m flows.retrain`.

Exit status: 0 done, whatever the gate's verdict; 1 a stage crashed; 2 bad input; 4 the data broke its contract;
5 data is held until a person releases it; 75 somebody else holds the workspace; 130 or 143 interrupted.
"""

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil

from flows import parameters, server, summary, versions
from tasks import register
from tasks.adapters import execution, graph, stage, workspace
from tasks.adapters.execution import StageError, TransientError
from tasks.adapters.graph import Step
from tasks.adapters.workspace import Workspace
from tasks.preferences.screen import HeldError

_planned: dict[Path, list[Step]] = {}  # by workspace: what `_main` saw while it held it, as it still does


def retrain(
    recipe: str | None = None,
    data: Path | None = None,
    fresh: Path | None = None,
    from_stage: str | None = None,
    force: bool = False,
) -> Any:
    """Take in a fresh shard, run what changed, register the result.

    recipe, data: a file of infra/recipes and the data it asks for; they run in a workspace of their own.
    fresh: a preference shard. from_stage: run this stage though nothing changed. force: run everything,
    or everything from `from_stage` on, though nothing changed.
    """
    from prefect.states import Cancelled, Completed, Failed

    from flows.steps import Run, publish

    started = began()
    space = workspace.open_workspace(Path(), recipe, data)
    with space.held():
        steps = _planned.pop(space.root, None) or take_and_plan(space, fresh, from_stage, force)
        if not is_due(space, steps):
            return Completed(message="nothing changed")
        with execution.warmed(space.root, steps) as warm:
            parameters.checked(space.root, steps, warm)
            with Run(space, say, warm) as run:
                failure = run.stages(steps)
                drift = [] if failure else versions.moved(space)
                version = None if failure else register.register(space, run.journal)
                if version is not None and version.version is not None:
                    versions.remember(space)
        report = summary.write(space, run.results, version, started, drift)
    publish(report, space.data)
    say(summary.table(report))
    if run.cancelled:
        return Cancelled(message="cancelled; `make run` goes on from here")
    if failure:
        return Failed(message=str(failure), data=failure)
    return Completed(message=summary.headline(report), data=report)


def take_and_plan(space: Workspace, fresh: Path | None, from_stage: str | None, force: bool) -> list[Step]:
    """Accept the fresh shard into the versioned data, then see what has to run."""
    if fresh is not None:
        take(space, fresh)
    graph.version_shards(space.root)
    return graph.plan(space.root, from_stage=from_stage, force=force)


def take(space: Workspace, fresh: Path) -> None:
    """Screen a fresh shard and compare it with what was accepted. Raises as `shards.accept` does."""
    from tasks.ingest import rules_of
    from tasks.preferences import holds, shards
    from tasks.preferences.rater_options import RaterOptions

    options = stage.read_params(holds.ShardOptions, "fresh", space.root / stage.PARAMS)
    raters = stage.read_part(RaterOptions, "prepare.raters", space.root / stage.PARAMS)
    # What `make mine` wrote in this very workspace contradicts the accepted labels by design.
    is_mined = fresh.resolve().is_relative_to((space.data / "runs/mine").resolve())
    judge = None if is_mined else partial(holds.judge, data=space.data, options=options, raters=raters)
    for dataset in holds.LEAST:
        graph.restore(space.root, f"data/raw/{dataset}")  # a clone has it in DVC's cache at most
    taken = shards.accept(fresh, space.data, rules=rules_of(space.root), judge=judge)
    known = "" if taken.is_new else ", which had them already"
    lost = ", ".join(f"{reason} {number}" for reason, number in sorted(taken.refused.items()))
    lost = f"; {sum(taken.refused.values())} refused ({lost}), see data/quarantine" if lost else ""
    say(f"{fresh}: {taken.rows} rows for {taken.dataset}{known}{lost}")
    for warning in taken.warnings:
        say(f"{fresh}: warning: {warning}")


def is_due(space: Workspace, steps: list[Step]) -> bool:
    """Whether there is anything to do: a stage to run, a result to register, a journal to deliver."""
    undelivered = any(space.data.glob("journal/*/run.json"))
    return any(step.changed for step in steps) or undelivered or register.is_due(space)


def began() -> float:
    """When this run began: with the command's process, imports and all, where it is one; else now."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return psutil.Process().create_time() if spec and spec.name == "flows.retrain" else time.time()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=__doc__)
    parser.add_argument("--recipe", help="a name of infra/recipes")
    parser.add_argument("--data", type=Path, help="the data that the recipe asks for")
    parser.add_argument("--fresh", type=Path, help="a preference shard to take in first")
    parser.add_argument("--from-stage", help="run this stage though nothing changed")
    parser.add_argument("--force", action="store_true", help="run every stage though nothing changed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return _main(arguments(argv))
    except stage.BusyError as error:
        return _complain(error, stage.BUSY)
    except TransientError as error:
        return _complain(error, stage.BUSY)
    except StageError as error:
        return _complain(error, error.status)
    except HeldError as error:
        return _complain(error, stage.HELD)
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        return _complain(error, stage.BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted; run it again to go on from here", 130)


def _main(options: argparse.Namespace) -> int:
    # Prefect and its server cost seconds: a run with nothing to do ends here, without them. One that has never run
    # has something to do, and the server starts beside the planning.
    space = workspace.open_workspace(Path(), options.recipe, options.data)
    with space.held():
        wait = server.temporary(Path(), space.root) if options.force or not (space.root / graph.LOCK).exists() else None
        steps = take_and_plan(space, options.fresh, options.from_stage, options.force)
        if not is_due(space, steps):
            say("nothing changed: every stage is as dvc.lock has it" + register.standing(space))
            return 0
        changed = [step.name for step in steps if step.changed]
        say(f"to run: {' '.join(changed) or 'no stage'} ({len(steps) - len(changed)} of {len(steps)} unchanged)")
        wait = wait or server.temporary(Path(), space.root)
        with execution.warmed(space.root, steps) as warm, ThreadPoolExecutor() as beside:
            checked = beside.submit(parameters.checked, space.root, steps, warm)
            from flows import serve

            checked.result()
            wait()
            _planned[space.root] = steps
            state: Any = serve.retrain(**vars(options), return_state=True)
    if state.is_cancelled():
        raise KeyboardInterrupt
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    return 0


def _complain(error: object, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status


def _terminated(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    # The module that the flow imports, not a second one of its name: they share the plan.
    from flows import retrain as module

    sys.exit(module.main())
