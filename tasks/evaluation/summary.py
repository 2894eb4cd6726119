"""From per-item scores to metrics: a pure function, so that a passport can be verified without any model.

items   one row per (model, prompt, sample): key, cluster, model, gold, judge, reward, num_tokens, finished,
        echo, declined, expected, kl, kl_k3, reply; None where a thing does not exist
pairs   one row per held-out comparison: cluster, source, label, gold_{a,b} or None,
        {reward,judge}_{a,b} (normalised scores), {reward,judge}_margin (raw, what sigma turns into P(a preferred));
        of some, where the policy learned from preferences: implicit_margin, by its implicit reward
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation import calibration, comparisons, statistics, text
from tasks.evaluation.statistics import Interval

Row = Mapping[str, Any]
UTILITIES = ("gold", "judge", "reward")


@dataclass(frozen=True)
class Summary:
    """How to estimate: the seed of the resampling and the number of resamples."""

    seed: int
    num_resamples: int

    def metrics(self, items: Sequence[Row], pairs: Sequence[Row]) -> dict[str, Any]:
        """The metrics of data/reports/evaluate.json; n counts prompts, and pairs under "reward" and "judge"."""
        names = list(dict.fromkeys(row["model"] for row in items))
        implicit = [row for row in pairs if row.get("implicit_margin") is not None]
        return {
            "reward": self.scorer(pairs, "reward"),
            "judge": self.scorer(pairs, "judge"),
            **({"implicit": self._accuracies(implicit, "implicit")} if implicit else {}),
            "win_rate": self.win_rates(items, "policy", "sft"),
            "win_rate_champion": self.win_rates(items, "policy", "champion") if "champion" in names else None,
            "change": self.changes(items, "policy", "sft"),
            "change_champion": self.changes(items, "policy", "champion") if "champion" in names else None,
            "models": {name: self.model([row for row in items if row["model"] == name]) for name in names},
        }

    def model(self, items: Sequence[Row]) -> dict[str, Any]:
        """What the replies of one model are like."""
        means = {key: self._mean(items, key) for key in (*UTILITIES, "num_tokens", "kl", "kl_k3")}
        shares = {key: self._share(items, key) for key in ("finished", "echo", "repetition")}
        return {
            **means,
            **shares,
            "declined_unsafe": self._share([row for row in items if row["expected"] == "decline"], "declined"),
            "declined_safe": self._share([row for row in items if row["expected"] == "assist"], "declined"),
            "distinct_2": text.distinct(row["reply"] for row in items),
        }

    def win_rates(self, items: Sequence[Row], model: str, rival: str) -> dict[str, Interval | None]:
        """Share of reply pairs that `model` wins, ties 0.5: per prompt over all pairs, then over prompts."""
        return {utility: self._by_prompt(items, model, rival, utility, comparisons.wins) for utility in UTILITIES}

    def changes(self, items: Sequence[Row], model: str, rival: str) -> dict[str, Interval | None]:
        """Mean differences model - rival, paired by prompt."""
        unsafe = [row for row in items if row["expected"] == "decline"]
        safe = [row for row in items if row["expected"] == "assist"]
        return {
            **{key: self._by_prompt(items, model, rival, key, _difference) for key in (*UTILITIES, "num_tokens")},
            "declined_unsafe": self._by_prompt(unsafe, model, rival, "declined", _difference),
            "declined_safe": self._by_prompt(safe, model, rival, "declined", _difference),
        }

    def scorer(self, pairs: Sequence[Row], name: str) -> dict[str, Any]:
        """How well a reward model tells the better reply: all pairs, and each source apart."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in pairs:
            groups[row["source"]].append(row)
        return {
            **self._scorer(pairs, name),
            "by_source": {group: self._scorer(groups[group], name) for group in sorted(groups)},
        }

    def _scorer(self, pairs: Sequence[Row], name: str) -> dict[str, Any]:
        if not pairs:
            return dict.fromkeys(_SCORER_KEYS)
        margins, labels, a, b = (
            np.array([row[key] for row in pairs], dtype=float)
            for key in (f"{name}_margin", "label", f"{name}_a", f"{name}_b")
        )
        return {
            **self._accuracies(pairs, name),
            "auc_pooled": comparisons.auc_pooled(a, b, labels),
            "auc_within": comparisons.auc_within(a, b, labels),
            "auc_mirrored": comparisons.auc_mirrored(a, b, labels),
            "ece": calibration.ece(margins, labels),
            "ece_null": calibration.ece_null(margins, self.seed),
            "brier": calibration.brier(margins, labels),
            "nll": calibration.nll(margins, labels),
            "temperature": calibration.temperature(margins, labels),
        }

    def _accuracies(self, pairs: Sequence[Row], name: str) -> dict[str, Any]:
        """Beside the labels, what the truth reaches on them, and beside the truth."""
        truth = [(row, row["gold_a"] - row["gold_b"]) for row in pairs if row["gold_a"] is not None]
        known, gold = [row for row, _ in truth], [margin for _, margin in truth]
        ceiling = self._agreement(known, gold, [row["label"] for row in known])
        below = self._agreement(known, [row[f"{name}_margin"] for row in known], [row["label"] for row in known])
        told = [(row, margin) for row, margin in truth if abs(margin) > comparisons.TIE]
        return {
            "accuracy": self._agreement(pairs, *([row[key] for row in pairs] for key in (f"{name}_margin", "label"))),
            "ceiling": ceiling,
            "accuracy_over_ceiling": below.value / ceiling.value if below and ceiling and ceiling.value else None,
            "gold_accuracy": self._agreement(
                [row for row, _ in told],
                [row[f"{name}_margin"] for row, _ in told],
                comparisons.preference([margin for _, margin in told]),
            ),
        }

    def _agreement(self, rows: Sequence[Row], margins: Any, labels: Any) -> Interval | None:
        values = comparisons.agreement(margins, labels)
        return statistics.share(values, [row["cluster"] for row in rows], **self._resampling)

    def _mean(self, rows: Sequence[Row], key: str) -> Interval | None:
        return statistics.mean(**_per_prompt(rows, key), **self._resampling)

    def _share(self, rows: Sequence[Row], key: str) -> Interval | None:
        return statistics.share(**_per_prompt(rows, key), **self._resampling)

    def _by_prompt(
        self, items: Sequence[Row], model: str, rival: str, key: str, compare: Callable[[Any, Any], float]
    ) -> Interval | None:
        """Estimate of `compare(values of model, values of rival)` over the prompts that both answered."""
        values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        clusters: dict[str, str] = {}
        for row in items:
            if row["model"] in (model, rival) and row[key] is not None:
                values[row["key"]][row["model"]].append(float(row[key]))
                clusters[row["key"]] = row["cluster"]
        both = [prompt for prompt, by_model in values.items() if len(by_model) == 2]
        compared = [compare(values[prompt][model], values[prompt][rival]) for prompt in both]
        estimate = statistics.mean if compare is _difference else statistics.share
        return estimate(compared, [clusters[prompt] for prompt in both], **self._resampling)

    @property
    def _resampling(self) -> dict[str, Any]:
        return {"seed": self.seed, "num_resamples": self.num_resamples}


_SCORER_KEYS = (
    *("accuracy", "ceiling", "accuracy_over_ceiling", "gold_accuracy", "auc_pooled", "auc_within"),
    *("auc_mirrored", "ece", "ece_null", "brier", "nll", "temperature"),
)


def _difference(values: Iterable[float], rivals: Iterable[float]) -> float:
    return float(np.mean(list(values)) - np.mean(list(rivals)))


def _per_prompt(rows: Sequence[Row], key: str) -> dict[str, Any]:
    """Means over the samples of each prompt, and the prompts' clusters: n then counts prompts."""
    values: dict[str, list[float]] = defaultdict(list)
    clusters: dict[str, str] = {}
    for row in rows:
        if row[key] is not None:
            values[row["key"]].append(float(row[key]))
            clusters[row["key"]] = row["cluster"]
    return {"values": [float(np.mean(found)) for found in values.values()], "clusters": list(clusters.values())}
