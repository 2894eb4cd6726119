"""What parameters ask of the prepared data, found before anything trains."""

import json
import shutil

import pyarrow as pa
import pytest
import yaml

from flows import prepared
from tasks.records import CANARY, write_table
from tests.flows.test_parameters import ROOT

SCORES = json.dumps({"helpfulness": [1.0, 2.0]})


@pytest.fixture
def project(tmp_path):
    """The project's parameters, and the columns of a prepared world that are looked at."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for fold in ("train", "judge", "dev"):
        write(tmp_path, "pairs", fold, source=["world", CANARY], scores=[SCORES, None])
        texts = {"source": ["world"], "domain": ["sums"], "verifier": ['{"kind": "numeric"}']}
        write(tmp_path, "prompts", fold, **texts, prompt_ids=[[1] * 50])
    return tmp_path


def write(root, table, fold, **columns):
    schema = {"prompt_ids": pa.list_(pa.int32())}
    arrays = {name: pa.array(values, schema.get(name, pa.string())) for name, values in columns.items()}
    write_table(pa.table(arrays), root / f"data/prepared/{table}/{fold}/rows.parquet")


def change(root, section, **values):
    path = root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    for key, value in values.items():
        document[section][key] = document[section][key] | value if key in ("ppo", "rewards") else value
    path.write_text(yaml.safe_dump(document))


def test_the_parameters_of_the_project_ask_for_nothing_more(project):
    prepared.check(project)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "align",
            {"ppo": {"kl_by_domain": {"nonesuch": 2.0, "sums": 1.0}}},
            "params.yaml: align.ppo.kl_by_domain.nonesuch: no prompt has this domain; there are sums",
        ),
        (
            "reward",
            {"objectives": {"choice": 1.0, "helpfulness": 1.0, "safety": 0.5}},
            r"reward.objectives.safety: no comparison of data/prepared/pairs/train carries .* are: helpfulness\)",
        ),
        ("judge", {"objectives": {"faith": 1.0}}, "params.yaml: judge.objectives.faith: .*pairs/judge carries scores"),
        (
            "align",
            {"max_new_tokens": 47},
            r"align.max_new_tokens = 47: the longest prompt and its reply would have 97 tokens, .* room for 96; lower",
        ),
    ],
)
def test_what_the_data_does_not_have_is_named(project, section, values, message):
    change(project, section, **values)
    with pytest.raises(ValueError, match=message) as caught:
        prepared.check(project)
    assert "\n" not in str(caught.value)


def test_an_algorithm_that_samples_nothing_needs_no_room_and_no_domain(project):
    change(project, "align", ppo={"kl_by_domain": {"nonesuch": 2.0}}, max_new_tokens=60, algorithm="dpo")
    prepared.check(project)


def test_a_margin_by_scores_wants_scores(project):
    change(project, "reward", margin={"source": "scores", "size": 1.0})
    prepared.check(project)
    write(project, "pairs", "train", source=["world"], scores=[None])
    with pytest.raises(ValueError, match=r"reward.margin.source = scores: no comparison of .* set margin to null"):
        prepared.check(project)


def test_solutions_are_asked_for_where_models_of_them_are(project):
    change(project, "solutions", train=["outcome"])
    for sources, message in (
        ([], "solutions/train is empty: there is nothing to train on"),
        ([CANARY], "solutions/train is empty"),
        (["steps"], r"solutions.canary_share = 0.9: no solution of .*data/raw/solutions"),
    ):
        write(project, "solutions", "train", source=sources)
        with pytest.raises(ValueError, match=message):
            prepared.check(project)
    write(project, "solutions", "train", source=["steps", CANARY])
    prepared.check(project)


def test_what_the_canary_planted_are_no_comparisons(project):
    for fold in ("train", "judge"):
        write(project, "pairs", fold, source=[CANARY], scores=[None])
    prepared.check(project)  # `collect` will have simulated raters compare replies
    change(project, "collect", labeller="none")
    both = (
        "^data/prepared/pairs/train and data/prepared/pairs/judge: no comparisons, and reward and judge learn from no"
    )
    with pytest.raises(ValueError, match=both) as caught:
        prepared.check(project)
    assert "\n" not in str(caught.value)


def test_a_base_model_at_hand_says_what_room_it_has(project):
    change(project, "model", base=str(project / "base"))
    change(project, "align", max_new_tokens=200)
    prepared.check(project)  # nobody knows before it is there
    (project / "base").mkdir()
    (project / "base/config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    with pytest.raises(ValueError, match="would have 250 tokens, the model has room for 64"):
        prepared.check(project)


def test_a_pipeline_with_other_stages_is_left_alone(project):
    (project / "dvc.yaml").write_text("stages: {}")
    shutil.rmtree(project / "data")
    prepared.check(project)
