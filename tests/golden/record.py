"""Record the curves of the tiny run: `python -m tests.golden.record`, then say in infra/LOG.md why they changed."""

import csv
import json
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parent / "curves.json"
COLUMNS = {
    "sft": ("loss", "lr"),
    "reward@0": ("loss", "accuracy", "margin"),
    "judge": ("loss", "accuracy"),
    "align": ("score", "kl", "kl_k3", "entropy", "value_loss"),
}


def curves(root: Path) -> dict[str, dict[str, list[float]]]:
    found = {}
    for name, columns in COLUMNS.items():
        with (root / f"data/curves/{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        found[name] = {column: [float(row[column]) for row in rows] for column in columns}
    return found


def main() -> None:
    import torch

    from tests.tasks.conftest import STAGES, inside, run_stage, workspace

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, inside(workspace(Path(folder))) as root:
        for name in STAGES[: STAGES.index("align") + 1]:
            run_stage(name)
        GOLDEN.write_text(json.dumps(curves(root), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
