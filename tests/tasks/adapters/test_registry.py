"""The registered reward model answers in a process that knows nothing of this project."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.adapters import registry
from tasks.rlhf import models, reward_model
from tasks.rlhf.batch import Example
from tasks.rlhf.options import ScoreOptions


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, in MLflow
def test_the_reward_package_scores_as_the_reward_model_does(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(tiny_model)
    folders = [tmp_path / "reward" / name for name in ("0", "1")]
    expected = []
    prompt = [{"role": "user", "content": "Hello a"}]
    prompt_ids = tokenizer("Hello a", add_special_tokens=False)["input_ids"]
    reply_ids = [*tokenizer("b c", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    several = ScoreOptions(bound=0.3, pooling="mean", objectives={"safety": 0.3, "helpfulness": 0.7})
    for seed, folder in enumerate(folders):
        model = reward_model.new_reward_model(tiny_model, "float32", seed, (ScoreOptions(), several)[seed])
        model.shift, model.scale, model.length_slope = 0.25 * (seed + 1), 2.0, (0.25, 0.0)[seed]
        reward_model.save_reward(model, tokenizer, folder)
        loaded = reward_model.load_reward(folder)
        expected.append(reward_model.score_examples(loaded, [Example(prompt_ids, reply_ids)])[0])
    package = tmp_path / "package"
    registry.package_reward(folders, package)
    code = (
        "import json, mlflow, pandas, sys\n"
        "rows = pandas.DataFrame([{'prompt': sys.argv[2], 'reply': 'b c'}])\n"
        "print(json.dumps(list(mlflow.pyfunc.load_model(sys.argv[1]).predict(rows))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(package), json.dumps(prompt)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), [np.mean(expected)], rtol=1e-5, atol=1e-6)
    assert not list(package.rglob("*.pkl"))
