"""The obvious way: `datasets` reads the file, pandas holds it whole, Great Expectations checks that frame.

    python tests/bench/sides/frames.py FOLDER      (FOLDER/votes.jsonl; the split goes to FOLDER/split)

It does as much of the job as comes without effort: lines that are no JSON are dropped first, for the reader stops at
one; rules are masks; duplicates, swaps and contradictions are found by grouping on folded texts; the split is by hash
of the prompt. Nothing says where a refused row stood, and what came before is read again.
"""

import hashlib
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np

TEXTS = ("prompt", "reply_a", "reply_b")
HIDDEN = "[\x00-\x08\x0e-\x1f\x7f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"


def readable(source: Path, target: Path) -> None:
    with source.open("rb") as lines, target.open("wb") as kept:
        for line in lines:
            try:
                json.loads(line)
            except ValueError:
                continue
            kept.write(line)


def fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def clean(frame):
    import pandas as pd

    for name in TEXTS:
        frame = frame[frame[name].notna() & frame[name].str.strip().ne("")]
        frame = frame[~frame[name].str.contains(re.compile(HIDDEN))]
    frame = frame[frame.choice.isin(("a", "b", "tie", "both_bad", "unsure")) & frame.confidence.between(0, 1)]
    frame = frame[pd.to_datetime(frame.created_at, errors="coerce", utc=True).notna()]
    folded = {name: frame[name].map(fold) for name in TEXTS}
    frame = frame[folded["reply_a"] != folded["reply_b"]].copy()
    first, second = folded["reply_a"].loc[frame.index], folded["reply_b"].loc[frame.index]
    swapped = first > second
    frame["pair"] = (
        folded["prompt"].loc[frame.index] + "\0" + np.where(swapped, second + "\0" + first, first + "\0" + second)
    )
    turned = frame.choice.map({"a": "b", "b": "a"}).fillna(frame.choice)
    frame["winner"] = np.where(swapped, turned, frame.choice)
    voted = frame.groupby(["pair", "rater"]).winner.transform("nunique")
    return frame[voted == 1].drop_duplicates(["pair", "rater"])


def check(frame, suite: Path) -> None:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    frame = frame.assign(
        id=[hashlib.sha256("\0".join(row).encode()).hexdigest() for row in zip(frame.pair, frame.rater, strict=True)],
        cluster=frame.prompt.map(fold),
        roles_ok=True,
        replies_differ=frame.reply_a != frame.reply_b,
        prefers_a=frame.choice.map({"a": 1.0, "b": 0.0}).fillna(0.5),
        prompt_chars=frame.prompt.str.len(),
        reply_a_chars=frame.reply_a.str.len(),
        reply_b_chars=frame.reply_b.str.len(),
    )
    longer = frame.reply_a_chars > frame.reply_b_chars
    frame["prefers_longer"] = np.where(frame.choice.isin(("a", "b")), longer == (frame.choice == "a"), 0.5).astype(
        float
    )
    wanted = json.loads(suite.read_text())["expectations"]
    wanted = [each for each in wanted if each["kwargs"].get("column", "id") in frame]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    found = batch.get_batch({"dataframe": frame}).validate(gx.ExpectationSuite(name="s", expectations=wanted))
    failed = [each.expectation_config.type for each in found.results if not each.success]
    sys.stdout.write(f"the obvious way: {len(frame)} rows are left; failed: {', '.join(failed) or 'nothing'}\n")


def main(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    readable(folder / "votes.jsonl", folder / "readable.jsonl")
    loaded = datasets.load_dataset("json", data_files=str(folder / "readable.jsonl"), cache_dir=str(folder / "cache"))
    frame = clean(loaded["train"].to_pandas())
    check(frame, Path(__file__).parents[3] / "data/expectations/preferences.json")
    position = frame.prompt.map(lambda text: int(hashlib.sha256(fold(text).encode()).hexdigest()[:8], 16) / 2**32)
    (folder / "split").mkdir()
    for name, low, high in (("test", 0, 0.18), ("dev", 0.18, 0.23), ("judge", 0.23, 0.48), ("train", 0.48, 1)):
        part = frame[position.between(low, high, inclusive="left")]
        part.drop(columns=["pair", "winner"]).to_parquet(folder / "split" / f"{name}.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
