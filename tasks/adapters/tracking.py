"""Where MLflow keeps runs and models, and how this project reaches it."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPERIMENT = "plumbline"
# MLflow reads these when it is first imported, so they stand here.
for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
    ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    # A dead server must not hold up the run for the minutes of MLflow's own patience.
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
):
    os.environ.setdefault(_name, _value)


class TrackingError(Exception):
    """The tracking store cannot be reached; the message says which and why."""


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps runs: MLFLOW_TRACKING_URI, or a sqlite file and a folder in the project."""

    uri: str
    artifacts: str | None  # None: the server decides
    lock: Path

    @classmethod
    def of(cls, home: Path) -> "Store":
        home = home.resolve()
        lock = home / "data/.lock/mlflow"
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            return cls(uri, None, lock)
        return cls(f"sqlite:///{home}/mlflow.db", (home / "mlartifacts").as_uri(), lock)

    def client(self) -> Any:
        """An MLflow client. The first contact creates the schema, under a lock: two at once would crash.

        Raises TrackingError when the store does not answer.
        """
        import mlflow

        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as file, reachable(self.uri):
            fcntl.flock(file, fcntl.LOCK_EX)
            self._create()
            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(tracking_uri=self.uri)
            if client.get_experiment_by_name(EXPERIMENT) is None:
                client.create_experiment(EXPERIMENT, artifact_location=self.artifacts)
        return client

    def _create(self) -> None:
        """A new sqlite file gets its schema under another name: a kill halfway would leave one beyond repair."""
        import mlflow

        if not self.uri.startswith("sqlite:///"):
            return
        path = Path(self.uri.removeprefix("sqlite:///"))
        for left in path.parent.glob(f"{path.name}.new-*"):
            left.unlink()
        if not path.exists():
            fresh = path.with_name(f"{path.name}.new-{os.getpid()}")
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments()
            fresh.replace(path)


@contextmanager
def reachable(uri: str) -> Iterator[None]:
    """Turn what MLflow raises for an absent or refusing server into TrackingError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TrackingError(f"tracking store {uri}: {reason}") from error


def legal_name(name: str) -> str:
    """MLflow's alphabet for names of metrics, parameters and tags."""
    return re.sub(r"[^\w\-./ ]", "_", name)
