"""`python -m tasks.adapters.forked MODULE [ARGUMENT ...]` is `python -m MODULE ...`, forked where there is what from.

See warm.py. Imports next to nothing: this process only waits.
"""

import runpy
import sys

from tasks.adapters import warm


def main(module: str, argv: list[str]) -> int:
    status = warm.hand_over(module, argv)
    if status is None:
        sys.argv = argv
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return status or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[1:]))
