"""What a person can mend is one line and a status."""

import pytest

from tasks.adapters import stage
from tasks.adapters.commands import complaining
from tasks.adapters.git import GitError
from tasks.adapters.tracking import TrackingError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (stage.BusyError("held by pid 7"), 75),
        (TrackingError("no answer"), 75),
        (ValueError("key = 1: too small"), 2),
        (FileNotFoundError("x: no such file"), 2),
        (GitError("not a repository"), 2),
    ],
)
def test_what_can_be_mended_is_a_line_and_a_status(capsys, error, status):
    @complaining
    def main(argv: list[str] | None = None) -> int:
        raise error

    assert main([]) == status
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: {error}\n")


def test_a_bug_keeps_its_traceback_and_success_its_status():
    def main(value: int) -> int:
        return 7 // value

    assert complaining(main)(7) == 1
    with pytest.raises(ZeroDivisionError):
        complaining(main)(0)
