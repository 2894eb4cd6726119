"""selftest: does a scheduled run really appear on a Prefect server of this installation?

Some versions of Prefect's own dependencies leave the server healthy and its schedules dead. Starts a server on a
free port with an empty database, gives it a deployment with a cron schedule, waits for its runs. Exit status: 0 or 1.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flows import server

_SCHEDULE_SECONDS = 60.0


def num_scheduled() -> int:
    """How many runs the server has scheduled for a new deployment of the inbox flow."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.schedules import Cron

    from flows.serve import tick

    deployment: Any = tick.to_deployment("selftest", schedule=Cron("0 3 * * *", timezone="UTC"))
    identity = deployment.apply()
    deadline = time.monotonic() + _SCHEDULE_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            mine = DeploymentFilter(id=DeploymentFilterId(any_=[identity]))
            runs = client.read_flow_runs(deployment_filter=mine)
            if any(run.state is not None and run.state.is_scheduled() for run in runs):
                return len(runs)
            time.sleep(0.5)
    return 0


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with server.complete(Path(folder)):
                count = num_scheduled()
        except RuntimeError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    if count == 0:
        sys.stderr.write("error: the Prefect server schedules no run: check fastapi and sqlalchemy (pyproject.toml)\n")
        return 1
    sys.stdout.write(f"ok: the Prefect server scheduled {count} run(s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
