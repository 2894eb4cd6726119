"""Take a fresh shard in, screened and compared with what was accepted: python -m tests.bench.sides.take FILE.

Run in a workspace; as `make run FRESH=FILE` does it, but for DVC.
"""

import sys
from functools import partial
from pathlib import Path

from tasks.adapters import stage
from tasks.ingest import rules_of
from tasks.preferences import holds, shards
from tasks.preferences.rater_options import RaterOptions


def main(fresh: Path) -> None:
    options = stage.read_params(holds.ShardOptions, "fresh", Path(stage.PARAMS))
    raters = stage.read_part(RaterOptions, "prepare.raters", Path(stage.PARAMS))
    judge = partial(holds.judge, data=Path("data"), options=options, raters=raters)
    shards.accept(fresh, Path("data"), 0.1, rules_of(Path()), judge)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
