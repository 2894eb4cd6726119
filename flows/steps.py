"""How a flow runs stages: the one Prefect task, its slots and retries, and what MLflow and the UI get to see."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.states import Completed

from flows import prepared, summary, versions
from flows.progress import Progress
from tasks.adapters import execution, git, graph, recovery
from tasks.adapters.execution import Result, TransientError, Warm
from tasks.adapters.graph import Step
from tasks.adapters.journal import Journal
from tasks.adapters.tracking import Store
from tasks.adapters.workspace import Workspace

_SHIP_EVERY = 2.0  # seconds between two deliveries to MLflow
_WATCH_EVERY = 3.0  # seconds between two looks for a cancellation
_NAMES = {"ran": "Completed", "cached": "Cached", "unchanged": "Skipped"}
_MESSAGES = {
    "ran": "executed",
    "cached": "outputs restored from the run cache; nothing was executed",
    "unchanged": "its inputs turned out as they were; nothing was executed",
}


# key of the artifact, page under data/, what it is
PAGES = (
    ("data-docs", "runs/validate/data_docs/index.html", "Great Expectations on the data of the last run"),
    ("data-card", "card.html", "What the models learn from"),
)


class Run:
    """What the stages of one flow run share: workspace, slots, journal. Leaving it ends every stage."""

    def __init__(self, space: Workspace, say: Callable[[str], None], warm: Warm | None = None) -> None:
        self.space, self.say = space, say
        self.running = execution.Running(warm)
        self.results: dict[str, Result] = {}
        self.errors: dict[str, Exception] = {}  # by stage; a retry that succeeds takes its error away
        self.cancelled = False
        self._is_data_checked = False
        self._training = threading.Semaphore(1)  # a training takes every core: two at once are slower than in turn
        self._light = threading.Semaphore(execution.LIGHT_SLOTS)
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True, name=work.__name__) for work in (self._deliver, self._watch)
        ]
        context = FlowRunContext.get()
        self._flow_run = context.flow_run if context else None
        store = Store.of(space.home)
        self._old = Journal.leftovers(space.root, store)
        self.journal = Journal.begin(space.root, store, *_identity(space, self._flow_run))

    def __enter__(self) -> "Run":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.stop()
        self._ended.set()
        for thread in self._threads:
            thread.join()
        recovery.clear_torn_lock(self.space.root)  # of a `dvc` that was stopped just now
        failed = error is not None or bool(self.errors) or self.cancelled
        for path in ("runs/validate/data_docs", "report.html", "card.html", "reports/card.json", versions.DRIFT):
            self.journal.attach(self.space.data / path)
        self.journal.end("FAILED" if failed else "FINISHED", graph.read_lock(self.space.root))
        self._ship_all()

    def check_data(self) -> None:
        """What `prepare` made, before anything trains on it. Under the training slot: one stage at a time asks."""
        versions.check(self.space)
        if not self._is_data_checked:
            prepared.check(self.space.root)
            self._is_data_checked = True

    def slot(self, step: Step) -> AbstractContextManager[Any]:
        return self._training if step.training else self._light

    def stages(self, steps: list[Step]) -> Exception | None:
        """Run the changed stages, each after its upstream, independent ones side by side; the first failure."""
        lock = graph.read_lock(self.space.root)
        futures: dict[str, PrefectFuture[Any]] = {}
        for step in steps:
            if step.changed:
                upstream = [futures[name] for name in step.upstream if name in futures]
                futures[step.name] = run_stage.submit(step, self, return_state=False, wait_for=upstream)
            else:
                self.results[step.name] = Result(step.name, "unchanged")
                self.journal.link(step.name, lock)
        try:
            for future in futures.values():
                future.wait()
        except BaseException:
            # Here and not in __exit__ alone: of two signals on end the second is raised where that begins.
            self.running.stop()
            raise
        return next(iter(self.errors.values()), None)

    def _deliver(self) -> None:
        while not self._ended.wait(_SHIP_EVERY):
            self._ship_all()

    def succeeded(self, result: Result) -> None:
        lock = graph.read_lock(self.space.root)
        self.results[result.name] = result
        self.errors.pop(result.name, None)
        if result.outcome == "ran":
            self.journal.end_stage(result.name, "FINISHED", lock)
            self.say(f"{result.name}: done in {result.seconds:.1f} s")
        else:
            self.journal.link(result.name, lock)
            self.say(f"{result.name}: {_MESSAGES[result.outcome]}")

    def failed(self, name: str, error: Exception) -> None:
        stopped = self.running.stopped
        self.results[name] = Result(name, "failed", message=str(error))
        if name in self.journal.entries:
            self.journal.end_stage(name, "KILLED" if stopped else "FAILED")
        if not stopped:
            self.errors[name] = error
            self.say(f"{name}: failed: {error}")

    def _ship_all(self) -> None:
        for journal in (*self._old, self.journal):
            if not journal.ship():
                self.say(f"tracking waits: {journal.problem}")
                return
            journal.clear()
        self._old = []

    def _watch(self) -> None:
        """End the stages when somebody cancels this flow run in the UI."""
        from prefect.client.orchestration import get_client

        if self._flow_run is None:
            return
        with get_client(sync_client=True) as client:
            while not self._ended.wait(_WATCH_EVERY):
                state = client.read_flow_run(self._flow_run.id).state
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    self.cancelled = True
                    self.running.stop()
                    return


def _is_transient(task: Any, run: Any, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), TransientError)


@task(
    task_run_name="{step.name}",
    cache_policy=NO_CACHE,  # DVC is the cache
    retries=3,
    retry_delay_seconds=[1, 4, 10],
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_transient,
)
def run_stage(step: Step, run: Run) -> State[Result]:
    """Run one stage in its own process group. The state says Completed, Cached or Skipped.

    Raises StageError when it fails; TransientError, which is retried, when a lock is held.
    """
    log = get_run_logger()
    with ExitStack() as stack:
        stack.enter_context(run.slot(step))
        progress = stack.enter_context(Progress(run.space.root, step.name, run.say))

        def hear(line: str) -> None:
            log.info(line)
            if line == f"Running stage '{step.name}':":
                run.journal.begin_stage(step.name, inputs)
                progress.start()

        try:
            if step.training:
                run.check_data()
            inputs = graph.input_hash(run.space.root, step.name)
            result = execution.run(run.space.root, step, run.running, hear)
            run.succeeded(result)
        except Exception as error:  # whatever it is: nothing may be registered after it
            run.failed(step.name, error)
            raise
    return Completed(name=_NAMES[result.outcome], message=_MESSAGES[result.outcome], data=result)


def _identity(space: Workspace, flow_run: Any) -> tuple[str, dict[str, str]]:
    """Name and tags of the MLflow run of this flow run."""
    revision, dirty = git.revision(space.root)
    tags = {"git.sha": revision, "git.dirty": str(dirty).lower(), "workspace": space.name}
    if flow_run is not None:
        tags["prefect.flow_run_id"] = str(flow_run.id)
    return (flow_run.name if flow_run is not None else time.strftime("retrain-%Y%m%d-%H%M%S")), tags


def publish(report: dict[str, Any], data: Path) -> None:
    """The summary as Prefect artifacts: a table of the stages, the figures as text, links to the pages on the data."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    rows = [{"stage": name, **row} for name, row in report["stages"].items()]
    create_table_artifact(key="stages", table=rows, description="How each stage ended")
    create_markdown_artifact(key="summary", markdown=summary.markdown(report), description="The run in figures")
    for key, page, what in PAGES:
        if (data / page).is_file():
            create_link_artifact(key=key, link=(data / page).resolve().as_uri(), link_text=what, description=what)
