"""A reader, and a crash, sees the old file or the new one."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.files import write_json

ROOT = Path(__file__).parents[2]


def test_json_is_old_or_new_but_never_torn(tmp_path):
    """A writer is killed 20 times; a reader sees a whole document each time."""
    path = tmp_path / "x.json"
    write_json(path, {"n": -1, "fill": "y" * 200_000})
    writer = (
        "import itertools, sys; from pathlib import Path; from tasks.files import write_json\n"
        "print('ready', flush=True)\n"
        "for n in itertools.count(): write_json(Path(sys.argv[1]), {'n': n, 'fill': 'x' * 200_000})"
    )
    seen = set()
    for number in range(20):
        command = [sys.executable, "-c", writer, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.013 * number)
            os.kill(process.pid, signal.SIGKILL)
        document = json.loads(path.read_text())
        assert len(document["fill"]) == 200_000
        seen.add(document["n"])
    assert len(seen) > 5


def test_threads_may_write_the_same_json(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_json(tmp_path / "x.json", {"n": n}), range(200)))
    assert json.loads((tmp_path / "x.json").read_text())["n"] in range(200)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
