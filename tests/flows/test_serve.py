"""Retraining by the clock, against real Prefect servers."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Executed = Callable[[], list[str]]


def post(server: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or "null")


@contextmanager
def running(server: str, *command: str) -> Iterator[None]:
    with Path("service.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env={**os.environ, "PREFECT_API_URL": server}, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def ticks(server: str) -> list[dict[str, Any]]:
    body = {
        "flows": {"name": {"any_": ["tick"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
    }
    found = post(server, "/flow_runs/filter", {**body, "sort": "END_TIME_DESC", "limit": 50})
    return list(reversed(found))


def wait_for_ticks(server: str, count: int, seconds: float) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(found := ticks(server)) >= count:
            return found
        time.sleep(1)
    raise AssertionError(f"{ticks(server)}\n{Path('service.log').read_text()}")


def put_shard(name: str, text: str) -> None:
    inbox = Path("data/inbox")
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / f"{name}.part").write_text(text)
    (inbox / f"{name}.part").rename(inbox / name)


def shard(reply: str) -> str:
    row = {"prompt": "How do I boil an egg?", "chosen": reply, "rejected": "No idea."}
    return json.dumps(row) + "\n"


@pytest.mark.slow
def test_a_tick_of_the_clock_takes_in_a_shard_and_one_without_does_nothing(
    short: Path, server: str, executed: Executed
) -> None:
    before = len(ticks(server))
    put_shard("votes.jsonl", shard("Seven minutes in boiling water."))
    put_shard("broken.jsonl", "{not json")
    with running(server, "flows.serve", "--cron", "* * * * *"):
        first, second = wait_for_ticks(server, before + 2, 200)[before : before + 2]
    assert first["state"]["type"] == "COMPLETED", Path("service.log").read_text()
    assert set(executed()) == {"ingest", "prepare", "sft"}
    assert Path("data/inbox/done/votes.jsonl").is_file()
    assert "broken.jsonl" in Path("data/inbox/refused/broken.reason.txt").read_text()
    assert Path("data/shards/rows.dvc").is_file()
    assert len(json.loads(Path("data/shards/index.json").read_text())["shards"]) == 1
    assert second["state"]["message"] == "no new shard in data/inbox; nothing to do"


@pytest.mark.slow
def test_deployed_to_a_process_pool_with_a_gpu_queue(short: Path, server: str, executed: Executed) -> None:
    post(server, "/work_pools/", {"name": "machines", "type": "process"})
    (short / "flows").symlink_to(Path(__file__).parents[2] / "flows")
    done = subprocess.run(
        [sys.executable, "-m", "flows.serve", "--pool", "machines"],
        env={**os.environ, "PREFECT_API_URL": server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = post(server, "/deployments/filter", {"deployments": {"name": {"any_": ["by-hand"]}}, "limit": 10})
    (deployment,) = [each for each in found if each["work_pool_name"] == "machines"]
    assert deployment["work_queue_name"] == "gpu"
    assert set(deployment["parameter_openapi_schema"]["properties"]) == {
        "recipe",
        "data",
        "fresh",
        "from_stage",
        "force",
    }
    run = post(server, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"force": True}})
    worked = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "machines", "--work-queue", "gpu", "--run-once"],
        env={**os.environ, "PREFECT_API_URL": server},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    state = post(server, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 1})[0]["state"]
    assert state["type"] == "COMPLETED", f"{state}\n{worked.stdout}\n{worked.stderr}"
    assert set(executed()) == {"ingest", "prepare", "sft"}


@pytest.mark.slow
def test_the_self_test_sees_a_scheduled_run() -> None:
    done = subprocess.run([sys.executable, "-m", "flows.selftest"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: ")
