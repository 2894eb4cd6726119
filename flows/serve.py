"""serve: the flows as Prefect sees them, and retraining by the clock over data/inbox/.

`python -m flows.serve --cron "0 3 * * *"` stays and runs them here; `--pool NAME` leaves them with a process work
pool instead (queue `gpu`), whose workers run `prefect worker start --pool NAME --work-queue gpu`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from flows import settings

if "prefect" not in sys.modules:  # a worker has imported it, with the settings of its own
    settings.apply(Path(), console=True)

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import retrain as job
from flows.inbox import INBOX, left, move, taken, waiting
from tasks.adapters import stage

QUEUE = "gpu"


@flow(name="retrain")
def retrain(
    recipe: str | None = None,
    data: Path | None = None,
    fresh: Path | None = None,
    from_stage: str | None = None,
    force: bool = False,
) -> Any:
    """Take in a fresh shard, run what changed, register the result. See flows/retrain.py."""
    return job.retrain(recipe, data, fresh, from_stage, force)


@flow(name="tick")
def tick() -> Any:
    """Take in what lies in data/inbox/ and retrain; without a new shard do nothing."""
    shards = waiting()
    for line in left():
        job.say(line)
    if not shards:
        return Completed(message=f"no new shard in {INBOX}; nothing to do")
    accepted = [shard for shard in shards if taken(shard)]
    if not accepted:
        return Completed(message=f"{len(shards)} shard(s) refused or held; see {INBOX}/refused and {INBOX}/held")
    state: State[Any] = job.retrain()
    if state.is_completed():  # until then the next tick goes on with them: the same shard twice is one shard
        for shard in accepted:
            move(shard, "done")
    return state


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("--cron", default="0 3 * * *", help='when to look at data/inbox (default "0 3 * * *")')
    parser.add_argument("--timezone", default="UTC")
    parser.add_argument("--pool", help="leave the flows with this process work pool and end")
    options = parser.parse_args(argv)
    try:
        if not os.environ.get("PREFECT_API_URL"):
            # Without a server Prefect starts one of its own for the process, and that one fires no schedule.
            raise ValueError(
                "PREFECT_API_URL is not set, and schedules need a Prefect server that stays: start one with "
                "`prefect server start` and export PREFECT_API_URL=http://127.0.0.1:4200/api"
            )
        deploy(options) if options.pool else stay(options)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return stage.BAD_INPUT
    return 0


def stay(options: argparse.Namespace) -> None:
    from prefect import serve
    from prefect.schedules import Cron

    scheduled: Any = tick.to_deployment("inbox", schedule=Cron(options.cron, timezone=options.timezone))
    by_hand: Any = retrain.to_deployment("by-hand")
    # One at a time: a run holds the workspace. A service that restarts must not leave its schedule paused.
    serve(scheduled, by_hand, limit=1, pause_on_shutdown=False)


def deploy(options: argparse.Namespace) -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron

    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    for name, entry, schedule in (
        ("inbox", "tick", Cron(options.cron, timezone=options.timezone)),
        ("by-hand", "retrain", None),
    ):
        source: Any = flow.from_source(str(Path().resolve()), f"flows/serve.py:{entry}")
        source.deploy(
            name,
            work_pool_name=options.pool,
            work_queue_name=QUEUE,
            schedule=schedule,
            concurrency_limit=one,
            print_next_steps=False,
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
