"""Prefect's settings for this project: its home is `.prefect/` here, and no profile of the user is read.

Call `apply` before the first import of prefect. A server is used only where the environment of the command
names one (PREFECT_API_URL); otherwise one runs for the length of the command (flows/server.py).
"""

import os
from pathlib import Path

from tasks.adapters.stage import QUIET


def apply(home: Path, *, console: bool = False) -> None:
    """Set the environment. `console`: let Prefect's own log lines appear on the terminal too."""
    prefect_home = home.resolve() / ".prefect"
    os.environ.update(QUIET)
    os.environ["PREFECT_HOME"] = str(prefect_home)
    os.environ["PREFECT_PROFILES_PATH"] = str(prefect_home / "profiles.toml")
    os.environ.pop("PREFECT_PROFILE", None)
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if not console:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
