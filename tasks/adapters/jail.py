"""The inner side of the sandbox: a script that fences itself in with the kernel's means, then becomes the program.

Started by sandbox.py as `python -I -S jail.py <fd>`, so it imports the standard library alone. Its order comes as JSON
on stdin; why it could not fence itself in goes to <fd>, which closes unwritten when the program starts.

    this process (new namespaces) -> init (process 1 of its own, builds the file system) -> the program

When init ends, or is killed with the group that it never leaves, the kernel ends every process inside.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

# <sched.h>, <sys/mount.h>, <linux/mount.h>, <sys/prctl.h>
NEW_NAMESPACES = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
)  # fs cgroup uts ipc pid net
NEW_USER = 0x10000000
MS_NOSUID_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x2 | 0x4, 0x1000, 0x4000, 1 << 18, 2
AT_FDCWD, AT_RECURSIVE, SYS_MOUNT_SETATTR = -100, 0x8000, 442
ATTR_READ_ONLY, ATTR_NO_SUID_NO_DEV = 0x1, 0x2 | 0x4
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


def main(status: int) -> None:
    order = json.loads(sys.stdin.buffer.read())
    os.set_inheritable(status, False)
    try:
        if sys.platform == "linux":
            _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        if order["isolate"]:
            user = _namespaces()
            _wait_for(os.fork())  # the child is process 1 of the new namespace
            _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
            _file_system(Path(order["folder"]), order["visible"], order["hidden"], order["limits"], user)
            Path("/box/program.py").write_text(order["program"], encoding="utf-8")
            _wait_for(os.fork())
            os.chdir("/box")
        else:
            user = os.getuid()
            os.chdir(order["folder"])
            Path("program.py").write_text(order["program"], encoding="utf-8")
        _become(user, order)
    except Exception as error:
        os.write(status, f"{type(error).__name__}: {error}".encode())
        os._exit(1)


def _wait_for(child: int) -> None:
    """In the parent: end as the child ends, reaping whoever else is left here. The child returns."""
    while child:
        pid, ended = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(ended)
            os._exit(code if code >= 0 else 128 - code)


def _namespaces() -> int:
    """Leave the machine's namespaces; the user to become. Root needs no user namespace and takes an unused id.

    (The limit on processes counts by user, and never for root.)
    """
    uid, gid = os.getuid(), os.getgid()
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this goes first
    if uid == 0:
        _call("unshare", NEW_NAMESPACES)
        return 40_000 + os.getpid() % 20_000
    _call("unshare", NEW_NAMESPACES | NEW_USER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
    return NOBODY


def _file_system(root: Path, visible: list[str], hidden: str, limits: dict[str, Any], user: int) -> None:
    """A new root: `visible` read-only without `hidden`, three devices, and /box, which alone can be written."""
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _tmpfs(root, "mode=755,size=1m")
    for name in (*visible, *DEVICES):
        source, target = Path(name), root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
            continue
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        _call("mount", os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC, None)
        if name not in DEVICES:
            _set_attributes(target, ATTR_READ_ONLY | ATTR_NO_SUID_NO_DEV, AT_RECURSIVE)
    if (root / hidden.lstrip("/")).is_dir():
        _tmpfs(root / hidden.lstrip("/"), "mode=000,size=4k")
    (root / "box").mkdir()
    _tmpfs(root / "box", f"mode=700,size={limits['folder_mb']}m,nr_inodes=1000")
    os.chown(root / "box", user, user)
    _set_attributes(root, ATTR_READ_ONLY, 0)
    os.chdir(root)
    _call("pivot_root", b".", b".")  # the old root now lies over the new one
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def _become(user: int, order: dict[str, Any]) -> None:
    limits, megabyte = order["limits"], 1024 * 1024
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_mb"] * megabyte),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * megabyte),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    if order["isolate"] and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if sys.platform == "linux":
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    python = order["python"]
    # Sets of text come in the same order each time.
    os.execve(python, [python, "-s", "-S", "-B", "-P", "program.py"], {"PYTHONHASHSEED": "0"})


def _tmpfs(where: Path, options: str) -> None:
    _call("mount", b"tmpfs", os.fsencode(where), b"tmpfs", MS_NOSUID_NODEV, options.encode())


def _set_attributes(where: Path, attributes: int, flags: int) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    size = ctypes.sizeof(wanted)
    _call(
        "syscall", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(where), flags, ctypes.byref(wanted), ctypes.c_size_t(size)
    )


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library; OSError where it fails, or does not exist (it is not Linux)."""
    function = getattr(libc, name, None)
    if function is None:
        raise OSError(f"{name}: not on this system")
    if function(*(ctypes.c_ulong(a) if isinstance(a, int) and a >= 0 else a for a in arguments)):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
