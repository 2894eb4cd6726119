"""Git, by its plumbing: what the working tree is, and a commit that pins a run without touching it."""

import os
import subprocess
import tempfile
from pathlib import Path


class GitError(Exception):
    """Git refused; the message is its own."""


def git(root: Path, *arguments: str, env: dict[str, str] | None = None, text: str | None = None) -> str:
    """Run git in `root` and return what it says. Raises GitError."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        env={**os.environ, **(env or {})},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise GitError(f"git {' '.join(arguments[:2])}: {' '.join(done.stderr.split())}")
    return done.stdout.rstrip("\n")


PINNED = ("dvc.lock", "params.yaml", "data/shards/index.json", "data/shards/rows.dvc")


def revision(root: Path) -> tuple[str, bool]:
    """The commit of the working tree and whether files differ from it that `pin` does not carry.

    ("none", True) outside git.
    """
    try:
        return git(root, "rev-parse", "HEAD"), bool(set(changed_files(root)) - set(PINNED))
    except (GitError, FileNotFoundError):
        return "none", True


def changed_files(root: Path) -> list[str]:
    """Tracked files that differ from HEAD, and new files that git does not ignore."""
    return [line[3:] for line in git(root, "status", "--porcelain", "--no-renames").splitlines()]


def tracked(root: Path) -> list[str]:
    """Files that git keeps; none outside git."""
    try:
        return [name for name in git(root, "ls-files", "-z").split("\0") if name]
    except (GitError, FileNotFoundError):
        return []


def pin(root: Path, branch: str, message: str) -> str:
    """Commit HEAD's tree with the present content of the PINNED files onto `branch`; return the commit.

    Index, working tree, HEAD and the user's branch stay as they are. When the branch already holds exactly
    this tree, its commit is returned and nothing is written.
    """
    head = git(root, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", env=index)
        present = [path for path in PINNED if (root / path).is_file()]
        if present:
            git(root, "update-index", "--add", "--", *present, env=index)
        tree = git(root, "write-tree", env=index)
    reference = f"refs/heads/{branch}"
    try:
        old = git(root, "rev-parse", "--verify", "--quiet", reference)
        if git(root, "rev-parse", f"{old}^{{tree}}") == tree:
            return old
    except GitError:
        old = "0" * 40  # there must be no such branch yet
    identity = {
        "GIT_AUTHOR_NAME": "plumbline",
        "GIT_AUTHOR_EMAIL": "plumbline@localhost",
        "GIT_COMMITTER_NAME": "plumbline",
        "GIT_COMMITTER_EMAIL": "plumbline@localhost",
    }
    commit = git(root, "commit-tree", tree, "-p", head, "-m", message, env=identity)
    git(root, "update-ref", reference, commit, old)
    return commit
