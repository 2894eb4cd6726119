"""What the commands beside the main job have in common."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from tasks.adapters import stage
from tasks.adapters.git import GitError
from tasks.adapters.tracking import TrackingError

P = ParamSpec("P")


def complaining(main: Callable[P, int]) -> Callable[P, int]:
    """Make of what a person can mend one line and an exit status: 75 to try again later, 2 for bad input."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except (stage.BusyError, TrackingError) as error:
            return _complain(error, stage.BUSY)
        except (ValueError, FileNotFoundError, GitError) as error:
            return _complain(error, stage.BAD_INPUT)

    return run


def _complain(error: Exception, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status
