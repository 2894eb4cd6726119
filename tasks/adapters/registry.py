"""MLflow's model registry: versions that exist once, aliases, and model folders that load without this project."""

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.files import write_json

_TOKENIZER_FILES = ("token*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt")
_REQUIREMENTS = ("torch", "transformers", "tokenizers", "safetensors")


def find_version(client: Any, name: str, key: str, value: str) -> Any | None:
    """The version of a model whose tag `key` is `value`, or None."""
    found = client.search_model_versions(f"name='{name}' and tags.`{key}` = '{value}'")
    return min(found, key=lambda each: int(each.version)) if found else None


def ensure_model(client: Any, name: str, description: str) -> None:
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description=description)


def aliased(client: Any, name: str, alias: str) -> str | None:
    """The version that an alias names, or None."""
    for model in client.search_registered_models(f"name='{name}'"):
        found = (model.aliases or {}).get(alias)
        return None if found is None else str(found)
    return None


def create_version(client: Any, name: str, run_id: str, folder: Path, tags: Mapping[str, str], description: str) -> str:
    """Upload `folder` to a run and make it a version in one call that carries all tags; the version's number.

    Tags set afterwards would lose the race against a crash, and with them the proof that the version exists.
    """
    client.log_artifacts(run_id, str(folder), name)
    source = f"{client.get_run(run_id).info.artifact_uri}/{name}"
    made = client.create_model_version(name, source, run_id=run_id, tags=dict(tags), description=description)
    return str(made.version)


def download(client: Any, name: str, number: str, folder: Path) -> Path:
    """The files of a version, under `folder`."""
    import mlflow

    uri = client.get_model_version_download_uri(name, number)
    return Path(
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=client.tracking_uri)
    )


def package_policy(checkpoint: Path, target: Path) -> None:
    """The checkpoint's own files plus MLflow's description of them.

    `transformers.pipeline("text-generation", model=target)` and `mlflow.transformers.load_model` both load it. The
    description is written by hand: MLflow's own way loads the model into memory and saves it anew.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types.schema import ColSpec, Schema

    shutil.copytree(checkpoint, target)
    tokenizer = target / "components/tokenizer"
    tokenizer.mkdir(parents=True)
    for pattern in _TOKENIZER_FILES:
        for file in checkpoint.glob(pattern):
            shutil.copyfile(file, tokenizer / file.name)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    text = Schema([ColSpec("string")])
    model = Model(signature=ModelSignature(inputs=text, outputs=text))
    model.add_flavor(
        "transformers",
        transformers_version=version("transformers"),
        code=None,
        task="text-generation",
        instance_type="TextGenerationPipeline",
        framework="pt",
        model_binary=".",
        pipeline_model_type=config["architectures"][0],
        source_model_name="plumbline",
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
        tokenizer_name="plumbline",
    )
    add_to_model(model, loader_module="mlflow.transformers", env={"virtualenv": "python_env.yaml"})
    _environment(target)
    model.save(str(target / "MLmodel"))


_PACKAGING = ("MLmodel", "requirements.txt", "python_env.yaml", "registered_model_meta", "components", "passports")


def unpack_policy(package: Path, target: Path) -> Path:
    """The checkpoint's own files out of a package: what `package_policy` was given."""
    shutil.copytree(package, target, ignore=lambda folder, _: _PACKAGING if Path(folder) == package else ())
    return target


def package_reward(members: Sequence[Path], target: Path) -> None:
    """The members' folders and the code that scores with them, as an MLflow python function."""
    import mlflow
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    prompt = json.dumps([{"role": "user", "content": "What is two and two?"}])
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "prompt"), ColSpec("string", "reply")]), outputs=Schema([ColSpec("double")])
    )
    mlflow.pyfunc.save_model(
        str(target),
        python_model=str(Path(__file__).with_name("reward_model.py")),
        artifacts={f"member-{member.name}": str(member) for member in members},
        pip_requirements=["mlflow", *_pinned()],
        signature=signature,
        input_example=pandas.DataFrame([{"prompt": prompt, "reply": "It is four."}]),
    )


def _environment(target: Path) -> None:
    import yaml

    (target / "requirements.txt").write_text("\n".join(["mlflow", *_pinned(), ""]), encoding="utf-8")
    environment = {"python": "3.11", "dependencies": ["-r requirements.txt"]}
    (target / "python_env.yaml").write_text(yaml.safe_dump(environment), encoding="utf-8")


def _pinned() -> list[str]:
    return [f"{package}=={version(package)}" for package in _REQUIREMENTS]


def write_passport(passport: Mapping[str, Any], folder: Path) -> None:
    write_json(folder / "passport.json", passport)
