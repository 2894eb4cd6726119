import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import parameters
from tasks.rlhf import algorithms

ROOT = Path(__file__).parents[2]


def changed(tmp_path, old, new):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    text = (ROOT / "params.yaml").read_text()
    assert text.count(old) >= 1
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    return tmp_path


def test_the_parameters_of_the_project_are_right():
    parameters.check(ROOT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  num_epochs: 4 ", "  num_epoch: 4 ", r"params.yaml: sft.num_epoch = 4: unknown key"),
        (
            "  test: 0.18",
            "  test: 1.8",
            r"params.yaml: folds.test = 1.8: Input should be less than 1",
        ),
        ("    kl_coef: 0.05", "    kl_coeff: 0.05", r"params.yaml: align.ppo.kl_coeff = 0.05: unknown key"),
        ("  algorithm: ppo", "  algorithm: popo", r"align.algorithm = 'popo': no such file; known: .*dpo, .*ppo"),
        # sections that are not in use today, too
        ("    gamma: 1.0", "    gama: 1.0", r"params.yaml: align.simpo.gama = 1.0: unknown key; known: .*gamma"),
        ("    gamma: 1.0", "    sft_weight: 1.0", r"not YAML: .*`sft_weight` stands twice"),
        (
            "    gamma: 1.0  ",
            "    # gamma: ",
            r"align.simpo.gamma: missing, and it has no default; add it",
        ),
        (
            "  one_base: false",
            "  one_bse: false",
            r"align.one_bse: unknown key; known: .*one_base, .*simpo",
        ),
        ("    gamma: 1.0", "    gamma: .inf", r"params.yaml: align.simpo.gamma = inf: give a finite number"),
        ("    gamma: 1.0", "    gamma: true", r"params.yaml: align.simpo.gamma = True: give a number"),
        ("    kl_coef: 0.05", "    kl_coef: no", r"params.yaml: align.ppo.kl_coef = False: give a number"),
        ("  algorithm: ppo", "  algorithm: ../policy/ppo", r"align.algorithm = '../policy/ppo': no such file; known: "),
        ("    kl_horizon: 2000", "    kl_horizon: 200", r"align.ppo.kl_horizon = 200: a step of 256 replies would"),
        (
            "max_new_tokens: 40 ",
            "max_new_tokens: 96 ",
            r"max_new_tokens = 96: leaves no room for a prompt",
        ),
        ("  hidden_size: 128", "  hidden_size: 132", r"params.yaml: model.hidden_size = 132: .* give a multiple of 8"),
        ("seed: 0", "seed: -1", r"params.yaml: seed = -1: Input should be greater than or equal to 0"),
        ("  members: [0]", "  members: [0, 0]", r"params.yaml: reward.members = \[0, 0\]: .*remove the repeated one"),
        ("aggregate: mean ", "aggregate: min  ", r"align.rewards.aggregate = 'min': .* and reward.members = \[0\]"),
        ("heads: {} ", "heads: {safe: 1.0} ", r"align.rewards.heads = .* reward.objectives, which are choice"),
        (
            "conditioning: null ",
            "conditioning: {dirichlet: 1.0} ",
            r"align.rewards.conditioning: weighs the heads of reward.objectives = \{\}; give two or more",
        ),
        ("preference: {} ", "preference: {safe: 0.0} ", r"evaluate.preference = .*all shares are 0"),
        (
            "mismatched: 0.0 ",
            "mismatched: 2.0 ",
            r"reward.counterexamples.mismatched = 2.0: .* less than or equal to 1",
        ),
        ("  swaps:  ", "  swap:  ", r"params.yaml: reward.swap = .*: unknown key"),
        (
            "names: []",
            "names: [browser]",
            r"params.yaml: align.tools.names.0 = 'browser': Input should be 'calculator'",
        ),
        ("verifier: 0.0", "verifeir: 0.0", r"params.yaml: align.rewards.verifeir = 0.0: unknown key"),
        ("learned: 1.0", "learned: 0.0", r"params.yaml: align.rewards.verifier = 0.0: .* nothing scores a reply"),
        ("train: [] ", "train: [order] ", r"params.yaml: solutions.train.0 = 'order': Input should be 'outcome'"),
        ("train: [] ", "train: [outcome, outcome] ", r"params.yaml: solutions.train = .*names a model twice"),
        ("process: 0.0 ", "process: 1.0 ", r"align.rewards.process = 1: no such model is trained; add process to"),
        ("process_reply: min ", "process_reply: mean ", r"align.rewards.process_reply = 'mean': Input should be 'min'"),
        ("  kto: ", "  kot: ", r"params.yaml: align.kot: unknown key"),
        ("judge:  ", "jugde:  ", r"params.yaml: unknown key `jugde`"),
        ("  lr: 3.0e-3", "  lr: .nan", r"params.yaml: sft.lr = nan: Input should be a finite number"),
        ("seed: 0", "seed: 0\nseed: 1", r"params.yaml: not YAML: .*key `seed` stands twice"),
    ],
)
def test_a_wrong_parameter_is_named(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        parameters.check(changed(tmp_path, old, new))


@pytest.mark.parametrize(
    ("algorithm", "key", "value", "message"),
    [
        ("dpo", "rewards.veto", True, r"align.rewards.veto = True: dpo learns from fixed data"),
        ("kto", "rewards.verifier", 1.0, r"align.rewards.verifier = 1.0: kto learns from fixed data"),
        ("dpo", "rewards.aggregate", "min", r"align.rewards.aggregate = 'min'"),
        ("ipo", "tools.names", ["calculator"], r"align.tools.names = \['calculator'\]: ipo learns"),
        (
            "orpo",
            "generation",
            {"engine": "server", "url": "http://127.0.0.1:1"},
            r"align.generation.engine = 'server'",
        ),
        ("kto", "kto.desirable_weight", 0, None),
        ("kto", "kto.undesirable_weight", 0, None),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, algorithm, key, value, message):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    section, params["align"]["algorithm"] = params["align"], algorithm
    *path, last = key.split(".")
    for name in path:
        section = section[name]
    section[last] = value
    (changed(tmp_path, "seed", "seed") / "params.yaml").write_text(yaml.safe_dump(params))
    with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
        parameters.check(tmp_path)


def test_a_verdict_that_weighs_nothing_teaches_nothing():
    weights = {"desirable_weight": 0, "undesirable_weight": 0}
    with pytest.raises(ValueError, match=r"align.kto.desirable_weight and undesirable_weight are both 0"):
        algorithms.load("kto", {"beta": 0.1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 64, **weights})


def test_a_run_with_nothing_to_do_imports_nothing_large():
    large = ("torch", "transformers", "prefect", "mlflow", "pandas")
    code = f"import sys, flows.retrain; print([name for name in {large} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
