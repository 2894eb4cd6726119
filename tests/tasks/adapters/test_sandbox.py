"""The sandbox against programs that mean harm; where this machine cannot fence them in, only that it refuses."""

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from tasks.adapters import sandbox
from tasks.adapters.sandbox import JAIL, Limits, NoSandboxError

ROOT = Path(__file__).parents[3]
PATIENT = Limits(seconds=60, cpu_seconds=30)  # for programs that end by themselves, on a busy machine


def fences_in():
    try:
        sandbox.check(PATIENT, allow_unsandboxed=False)
    except NoSandboxError:
        return False
    return True


isolated = pytest.mark.skipif(not fences_in(), reason="this machine has no namespaces for us")


def run(program, limits=PATIENT):
    return sandbox.run(program, limits)


@isolated
def test_a_program_runs_in_an_empty_writable_folder():
    program = """
import os, sys
open("note", "w").write("kept here")
print(sorted(os.listdir()), open("note").read(), sys.stdin.read() == "", os.getpid())
print("wrong", file=sys.stderr)
sys.exit(3)
"""
    outcome = run(program)
    assert outcome.code == 3
    assert outcome.stdout == "['note', 'program.py'] kept here True 2\n"  # process 2 of its own world
    assert outcome.stderr == "wrong\n"


@isolated
def test_no_environment_and_the_same_order_of_sets(monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    program = "import os; print(sorted(os.environ), {'a', 'b', 'c', 'd', 'e'})"
    first = run(program)
    assert first.stdout.startswith("['LC_CTYPE', 'PYTHONHASHSEED'] ")
    assert run(program) == first


@isolated
def test_no_file_of_this_machine_but_the_libraries(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("token")
    program = """
import os
for path in {paths}:
    try:
        print("READ", open(path).read())
    except OSError as error:
        print(type(error).__name__)
print(sorted(os.listdir("/dev")), os.path.exists("/proc"), os.path.exists("/home"))
"""
    paths = [str(secret), str(ROOT / "params.yaml"), "/etc/passwd", "/proc/1/environ"]
    lines = run(program.format(paths=paths)).stdout.splitlines()
    assert lines == ["FileNotFoundError"] * 4 + ["['null', 'urandom', 'zero'] False False"]


@isolated
def test_a_project_inside_the_libraries_is_hidden(monkeypatch):
    """As in a container whose working folder lies under /usr/lib."""
    folder = Path(os.__file__).parent / "json"
    program = f"import os\ntry:\n    print(os.listdir({str(folder)!r}))\nexcept OSError as e: print(type(e).__name__)"
    assert "decoder.py" in run(program).stdout
    monkeypatch.chdir(folder)
    assert run(program).stdout == "PermissionError\n"


@isolated
def test_nothing_else_can_be_written_and_no_right_is_left():
    program = """
import os
for path in ("/", "/dev", "/usr/lib", os.path.dirname(os.__file__)):
    try:
        open(path + "/x", "w").close()
        print("WROTE", path)
    except OSError as error:
        print(error.errno)
for act in (lambda: os.mkdir("/x"), lambda: os.chmod("/", 0o777), lambda: os.mknod("x", 0o20666, os.makedev(1, 1)),
            lambda: os.chroot("."), lambda: os.setuid(0)):
    try:
        act()
        print("DID")
    except OSError:
        print("no")
os.chmod(".", 0o777)
"""
    outcome = run(program)
    assert outcome.stdout.split() == ["30"] * 4 + ["no"] * 5  # 30: a read-only file system
    assert outcome.code == 0


@isolated
def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        program = f"""
import socket
for address in (("127.0.0.1", {port}), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=5)
        print("CONNECTED")
    except OSError as error:
        print(error.errno)
"""
        outcome = run(program)
        with pytest.raises(TimeoutError):
            server.accept()
    assert outcome.stdout == "101\n101\n"  # the network is unreachable


@isolated
def test_a_fork_bomb_stops_at_the_limit():
    program = """
import os, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
    except OSError as error:
        print(made, type(error).__name__)
        break
"""
    assert run(program).stdout == f"{PATIENT.processes - 1} BlockingIOError\n"


@isolated
def test_a_daemon_does_not_outlive_its_program():
    marker = uuid.uuid4().hex
    program = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("away", flush=True)
        os.execv(sys.executable, ["python", "-S", "-c", "import time; time.sleep(600)", {marker!r}])
    os._exit(0)
time.sleep(1)
"""
    outcome = run(program)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "away\n", "")
    assert not [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]


@isolated
@pytest.mark.parametrize(
    "program",
    [
        "x = b'x' * (1 << 30)",
        "x = []\nwhile True: x.append(bytes(1 << 20))",
        "open('f', 'wb').write(bytes(2 << 20))",
        "for i in range(100):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))",
        "for i in range(2000): open(f'f{i}', 'w').close()",
        "files = [open('/dev/null') for i in range(100)]",
        "while True: print('x' * 1000)",
        "import os\nwhile True: os.write(2, b'x' * 1000)",
    ],
)
def test_what_takes_too_much_fails(program):
    outcome = run(program)
    assert outcome.code not in (None, 0)
    assert len(outcome.stdout) <= 1 << 20
    assert len(outcome.stderr) <= 1 << 20


@isolated
@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(600)",
        "import os, time\nos.setsid() if os.fork() == 0 else None\ntime.sleep(600)",
        "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(1)",
    ],
)
def test_time_ends(program):
    started = time.monotonic()
    assert run(program, Limits(seconds=1)).code is None
    assert time.monotonic() - started < 30


@isolated
def test_cpu_time_ends():
    assert run("while True: pass", Limits(seconds=60, cpu_seconds=1)).code in (128 + 9, 128 + 24)


@isolated
def test_output_that_is_no_text_is_read():
    assert run("import os; os.write(1, b'\\xff\\x00ok')").stdout == "�\x00ok"


@isolated
def test_limits_too_tight_for_anything_are_named():
    with pytest.raises(NoSandboxError, match=r"a harmless program did not run .* raise align\.rewards\.sandbox"):
        sandbox.check(Limits(seconds=60, memory_mb=1), allow_unsandboxed=False)


# --- Where isolation is missing


@pytest.fixture
def no_namespaces(tmp_path, monkeypatch):
    """As on a system whose C library has no such call."""
    jail = tmp_path / "jail.py"
    jail.write_text(JAIL.read_text().replace('"unshare"', '"unshare_not_here"'))
    monkeypatch.setattr(sandbox, "JAIL", jail)


def test_refused_in_one_line(no_namespaces, tmp_path):
    message = r"code is not run: .*unshare_not_here: not on this system.*allow_unsandboxed: true"
    with pytest.raises(NoSandboxError, match=message) as caught:
        sandbox.run(f"open({str(tmp_path / 'ran')!r}, 'w')", PATIENT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(NoSandboxError):
        sandbox.check(PATIENT, allow_unsandboxed=False)


def test_allowed_unsandboxed_still_has_limits(no_namespaces, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    sandbox.check(PATIENT, allow_unsandboxed=True)
    program = "import os; print('SECRET' in os.environ, os.listdir()); x = b'x' * (1 << 30)"
    outcome = sandbox.run(program, PATIENT, allow_unsandboxed=True)
    assert outcome.stdout == "False ['program.py']\n"
    assert "MemoryError" in outcome.stderr


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_refused_as_in_a_container():
    """Root without the right to make namespaces."""
    code = "from tasks.adapters import sandbox; sandbox.check(sandbox.Limits(seconds=60), allow_unsandboxed=False)"
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert "unshare: Operation not permitted" in done.stderr
