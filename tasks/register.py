"""register: put the result of a run into MLflow's registry, once.

A side effect, called by the flow when every stage ended well; no DVC stage.

reads   dvc.lock  params.yaml  data/models/{policy,reward}  data/reports/{evaluate,gate}.json
writes  data/runs/register/record.json, a branch `retrain/<policy>` that pins the run, versions in the registry
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.adapters import git, graph, registry, stage
from tasks.adapters.journal import Journal
from tasks.adapters.tracking import TrackingError, legal_name, reachable
from tasks.adapters.workspace import Workspace
from tasks.files import write_json
from tasks.hashes import content_hash

POLICY = "data/models/policy"
REWARD = "data/models/reward/"


@dataclass(frozen=True)
class Registration:
    """What the registry holds for the result of a run, or why it does not."""

    model: str
    version: str | None
    is_new: bool
    verdict: str
    reason: str | None = None  # why there is no version

    @property
    def text(self) -> str:
        if self.version is None:
            return f"not registered: {self.reason}"
        known = "" if self.is_new else ", known before"
        return f"{self.model} version {self.version}, challenger ({self.verdict}{known})"

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "text": self.text}


def names(space: Workspace) -> tuple[str, str]:
    """The registered models. A recipe has its own: versions of different data do not compete for one alias."""
    suffix = "" if space.name == "main" else f"-{space.name}"
    return f"policy{suffix}", f"reward-model{suffix}"


def is_due(space: Workspace) -> bool:
    """Whether there is a complete result that the registry may not hold."""
    lock = graph.read_lock(space.root)
    return policy_md5(lock) is not None and _record(space).get("key") != result_key(lock)


def standing(space: Workspace) -> str:
    """`; registered as ...` for the present result."""
    record = _record(space)
    return f"; {record['text']}" if record else ""


def registered(space: Workspace) -> str | None:
    """`policy version 3`, where the registry was last seen to hold the present result."""
    record = _record(space)
    return f"{record['model']} version {record['version']}" if record.get("version") and not is_due(space) else None


def register(space: Workspace, journal: Journal) -> Registration | None:
    """Register policy and reward model of the present result; None where there is no result.

    The same policy makes no second version: what is new about it, a verdict against another champion or on other
    evaluation data, is added to the version it has.
    """
    lock = graph.read_lock(space.root)
    md5 = policy_md5(lock)
    if md5 is None or not (space.root / POLICY / "config.json").is_file():
        return None
    model, reward = names(space)
    gate = _report(space, "gate")["metrics"]
    if not journal.ship():
        return Registration(model, None, False, gate["verdict"], journal.problem)
    try:
        with reachable(journal.store.uri):
            passport = make_passport(space, lock, md5)
            version, is_new = _register_policy(space, journal, model, passport)
            _register_reward(space, journal, reward, passport, lock)
    except TrackingError as error:
        return Registration(model, None, False, gate["verdict"], str(error))
    made = Registration(model, version, is_new, gate["verdict"])
    write_json(_record_path(space), {"key": result_key(lock), **made.document()})
    return made


def make_passport(space: Workspace, lock: Mapping[str, Any], md5: str) -> dict[str, Any]:
    """All that a version rests on; the release recomputes the verdict from it. Its root is dvc.lock at `commit`."""
    revision, dirty = git.revision(space.root)
    outs = {out["path"]: out["md5"] for entry in lock["stages"].values() for out in entry.get("outs", [])}
    evaluate, gate = _report(space, "evaluate"), _report(space, "gate")
    rubric = space.data / "rubric.md"
    return {
        "policy": {"md5": md5, "sha256": content_hash(space.root / POLICY)},
        "reward": {path: value for path, value in outs.items() if path.startswith(REWARD)},
        "data": {Path(path).name: value for path, value in outs.items() if path.startswith("data/raw/")},
        "evaluation_data": judged_on(lock),
        "rubric": content_hash(rubric) if rubric.is_file() else None,
        "params": stage.read_yaml(space.root / "params.yaml"),
        "workspace": space.name,
        "code": {"sha": revision, "dirty": dirty},
        "commit": _pin(space, md5),
        "dvc_lock": hashlib.sha256((space.root / "dvc.lock").read_bytes()).hexdigest(),
        "evaluation": evaluate["metrics"],
        "gate": {"params": gate["params"], "metrics": gate["metrics"]},
        "champion": _champion(space),
    }


def judged_on(lock: Mapping[str, Any]) -> dict[str, str]:
    """The data that evaluation read, by path: candidate, baseline, champion and test prompts among them."""
    deps = (lock["stages"].get("evaluate") or {}).get("deps") or []
    return {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith("data/")}


def judgement_key(passport: Mapping[str, Any]) -> str:
    """Names a verdict: it belongs to (candidate, champion, evaluation data, rules) and is never overwritten."""
    return _digest([passport["policy"]["md5"], passport["evaluation_data"], passport["gate"]["params"]])[:12]


def policy_md5(lock: Mapping[str, Any]) -> str | None:
    """DVC's hash of the policy folder; None where there is none yet."""
    return next((md5 for _, md5 in _policies(lock)), None)


def policy_stage(lock: Mapping[str, Any]) -> str:
    """The stage that writes the policy."""
    return next(name for name, _ in _policies(lock))


def _policies(lock: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, entry in (lock.get("stages") or {}).items():
        for out in entry.get("outs") or []:
            if out["path"] == POLICY:
                yield name, str(out["md5"]).removesuffix(".dir")


def result_key(lock: Mapping[str, Any]) -> str:
    return _digest([policy_md5(lock), lock["stages"].get("evaluate"), lock["stages"].get("gate")])


def _register_policy(space: Workspace, journal: Journal, model: str, passport: dict[str, Any]) -> tuple[str, bool]:
    client = journal.store.client()
    registry.ensure_model(client, model, "Language models aligned by human preferences; the alias champion serves.")
    key = judgement_key(passport)
    known = registry.find_version(client, model, "policy.md5", passport["policy"]["md5"])
    if known is None:
        tags = {**_tags(passport), **_verdict_tags(passport, key), **_links(journal)}
        with tempfile.TemporaryDirectory(dir=_scratch(space)) as folder:
            package = Path(folder) / model
            registry.package_policy(space.root / POLICY, package)
            registry.write_passport(passport, package / "passports" / key)
            number = registry.create_version(client, model, _run_id(journal), package, tags, _description(passport))
    else:
        number = str(known.version)
        if f"verdict.{key}" not in known.tags:
            _add_verdict(space, client, model, known, passport, key)
    if registry.aliased(client, model, "champion") != number:
        client.set_registered_model_alias(model, "challenger", number)
    return number, known is None


def _add_verdict(space: Workspace, client: Any, model: str, known: Any, passport: dict[str, Any], key: str) -> None:
    """Another verdict on a version that exists: its passport first, then the tag that says it is there."""
    with tempfile.TemporaryDirectory(dir=_scratch(space)) as folder:
        registry.write_passport(passport, Path(folder))
        client.log_artifact(known.run_id, str(Path(folder) / "passport.json"), f"{model}/passports/{key}")
    client.set_model_version_tag(model, known.version, f"verdict.{key}", passport["gate"]["metrics"]["verdict"])


def _register_reward(
    space: Workspace, journal: Journal, model: str, passport: dict[str, Any], lock: Mapping[str, Any]
) -> None:
    members = sorted(passport["reward"])
    if not members or not all((space.root / path / "reward.json").is_file() for path in members):
        return
    client = journal.store.client()
    registry.ensure_model(client, model, "Reward models: a score for a reply, from pairwise human preferences.")
    digest = _digest(passport["reward"])
    if registry.find_version(client, model, "reward.digest", digest) is not None:
        return
    tags = {**_tags(passport), "reward.digest": digest, **_links(journal)}
    with tempfile.TemporaryDirectory(dir=_scratch(space)) as folder:
        package = Path(folder) / model
        registry.package_reward([space.root / path for path in members], package)
        accuracy = (passport["evaluation"].get("reward") or {}).get("accuracy")
        description = f"Reward model of {len(members)} member(s); pair accuracy {_estimate(accuracy)}."
        number = registry.create_version(client, model, _run_id(journal), package, tags, description)
    client.set_registered_model_alias(model, "challenger", number)


def _tags(passport: Mapping[str, Any]) -> dict[str, str]:
    return {
        "policy.md5": passport["policy"]["md5"],
        "policy.sha256": passport["policy"]["sha256"],
        **{f"data.{name}.md5": value for name, value in passport["data"].items()},
        "git.sha": passport["code"]["sha"],
        "git.dirty": str(passport["code"]["dirty"]).lower(),
        "git.commit": passport["commit"],
        "dvc.lock.sha256": passport["dvc_lock"],
        "seed": str(passport["params"].get("seed")),
        "workspace": passport["workspace"],
    }


def _verdict_tags(passport: Mapping[str, Any], key: str) -> dict[str, str]:
    gate = passport["gate"]["metrics"]
    rules = {f"gate.{rule['name']}": _rule(rule) for rule in gate["rules"]}
    said = {f"gate.{name}": str(gate.get(name)) for name in ("verdict", "needed", "baseline", "judged_by")}
    return {**said, **rules, f"verdict.{key}": gate["verdict"]}


def _rule(rule: Mapping[str, Any]) -> str:
    return f"{rule['outcome']}: {_estimate(rule)}, threshold {rule['threshold']}"


def _estimate(estimate: Any) -> str:
    if not isinstance(estimate, Mapping) or estimate.get("value") is None:
        return "not measured"
    return f"{estimate['value']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}] n={estimate['n']}"


def _links(journal: Journal) -> dict[str, str]:
    """The MLflow runs of this flow run, its stages' among them."""
    stages = {legal_name(f"run.{name}"): entry.run_id or "" for name, entry in journal.entries.items()}
    return {"run.flow": _run_id(journal), **stages}


def _run_id(journal: Journal) -> str:
    assert journal.parent.run_id is not None, "a delivered journal has a run"
    return journal.parent.run_id


def _description(passport: Mapping[str, Any]) -> str:
    """What a person reads on the version's page before moving the alias."""
    gate = passport["gate"]["metrics"]
    needed = f" ({gate['needed']} more prompts needed)" if gate.get("needed") else ""
    lines = [
        f"**Gate: {gate['verdict']}**{needed}, against {gate.get('baseline')}, judged by {gate.get('judged_by')}.",
        "",
        *(f"- {rule['name']}: {_rule(rule)}" for rule in gate["rules"]),
        "",
        f"Algorithm {passport['params'].get('align', {}).get('algorithm', 'unknown')}, seed "
        f"{passport['params'].get('seed')}, code {passport['code']['sha'][:12]}, pinned by {passport['commit'][:12]}.",
    ]
    return "\n".join(lines)


def _pin(space: Workspace, md5: str) -> str:
    """A commit that holds dvc.lock, parameters and shards of this result; the user's branch is not touched."""
    try:
        return git.pin(space.root, f"retrain/{md5[:12]}", f"Pin the run that made policy {md5}")
    except (git.GitError, FileNotFoundError) as error:
        return f"none ({error})"


def _champion(space: Workspace) -> dict[str, Any] | None:
    path = space.data / "champion/manifest.json"
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return {key: manifest.get(key) for key in ("version", "policy_md5")} if manifest.get("version") else None


def _report(space: Workspace, name: str) -> dict[str, Any]:
    path = space.data / "reports" / f"{name}.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _record_path(space: Workspace) -> Path:
    return space.data / "runs/register/record.json"


def _record(space: Workspace) -> dict[str, Any]:
    path = _record_path(space)
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document


def _scratch(space: Workspace) -> Path:
    """A folder for packages on the workspace's own disk; what a killed run left in it goes."""
    folder = space.data / "runs/register/packages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
