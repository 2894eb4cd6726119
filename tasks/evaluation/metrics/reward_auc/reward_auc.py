"""The three AUCs of a reward model as an `evaluate` module: `evaluate.load("tasks/evaluation/metrics/reward_auc")`."""

# One import per line: the loader of `evaluate` reads these lines to find what has to be installed.
import datasets
import evaluate

from tasks.evaluation import comparisons

_DESCRIPTION = "AUC pooled over prompts, within pairs (pair accuracy), and of mirrored margins: three numbers, by name."


class RewardAuc(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions, rivals: scores of a and of b; references: P(a preferred), ties left out",
            features=datasets.Features({"predictions": number, "rivals": number, "references": number}),
        )

    def _compute(
        self, predictions: list[float], rivals: list[float], references: list[float]
    ) -> dict[str, float | None]:
        scores = (predictions, rivals, references)
        return {
            "auc_pooled": comparisons.auc_pooled(*scores),
            "auc_within": comparisons.auc_within(*scores),
            "auc_mirrored": comparisons.auc_mirrored(*scores),
        }
