"""ui: MLflow's pages on this project's results, on 127.0.0.1 only. `python -m flows.ui --port 5000`."""

import argparse
import os
import socket
import sys
from pathlib import Path

from tasks.adapters.commands import complaining
from tasks.adapters.execution import quiet_environment
from tasks.adapters.tracking import Store


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    port = parser.parse_args(argv).port
    store = Store.of(Path())
    if is_taken(port):
        raise ValueError(f"port {port} is in use; choose another: `make ui PORT={port + 1}`")
    store.client()  # creates the store where nothing has run yet
    sys.stdout.write(f"http://127.0.0.1:{port} shows {store.uri}; Ctrl-C ends it\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if store.artifacts:
        command += ["--default-artifact-root", store.artifacts, "--serve-artifacts"]
    # Without its job runner the server starts in 4 s instead of 17.
    os.execve(sys.executable, command, {**quiet_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


if __name__ == "__main__":
    sys.exit(main())
