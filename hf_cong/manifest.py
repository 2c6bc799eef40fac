# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a training run is made of and how far it has come: `_cong/manifest.json`, which cards and pushes are made of.

It names models of the Hub with their commits, and of local paths the last component only: it is to be published.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftConfig

from .cards import describe_source, model_card
from .chain import Chain
from .checkpoints import commit_of, content_key, settings_identity
from .hub.files import is_local
from .hub.run import RunPushes
from .hub.secrets import check_secrets
from .hub.sources import source_of, unknown_source
from .journal import read_manifest, replacing, write_manifest
from .prompts import prompts_origin

_DECODING = ("alpha", "plausibility_threshold")
_STEERING = ("chosen_from", "steering_beta", "plausibility_threshold")
_SEARCHING = ("chosen_from", "beam_width", "successors_per_beam", "chunk_length")
_WRITING = ("max_new_tokens", "temperature", "top_p", "top_k", "drop_truncated")
_REFINING = ("num_chosen_samples", "chosen_share", "drop_contradicting", "reward_margin", "rejected_from")
_STAGE_ONE = ("sft_learning_rate", "sft_num_train_epochs")
_TRAINING = (
    *("beta", "loss_type", "learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps"),
    *("weight_decay", "optim", "max_length", "bf16", "fp16", "seed"),
)
_ADAPTER = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora")
# How long a launch took, and the mean over the steps that it took, are not those of the run.
_OF_A_LAUNCH = ("_runtime", "_per_second")


class RunRecord:
    """
    Keeps the manifest of a run, and publishes what it says has ended. Does nothing but in the main process.

    Args:
        chain ([`Chain`]): The data of the run, and its settings.
        adapter_base (`str`, *optional*): If an adapter is trained, the name of the model under it.

    Attributes:
        facts (`dict`): See [`run_facts`]; empty before the run has begun.
        measures (`dict[str, dict]`): What the stages logged last.
        pushes ([`RunPushes`] or `None`): What publishes, if anything is published.

    Raises:
        PermissionError, ConnectionError, ValueError: if the Hub will not take what is to be published.
    """

    def __init__(self, chain: Chain, adapter_base: str | None = None):
        self.chain, self.adapter_base = chain, adapter_base
        self.facts, self.measures, self.pushes = {}, {}, None
        self._main = chain.args.process_index == 0
        if chain.args.push_to_hub:
            self.connect()

    def connect(self) -> None:
        """Asks the Hub, once, whether it will take what is to be published."""
        args = self.chain.args
        if not self._main or self.pushes is not None:
            return
        if self.adapter_base is not None and is_local(self.adapter_base) and not args.merge_adapter:
            raise ValueError(
                "An adapter is published with the Hub id of its base, and the base of this one, "
                f"{Path(self.adapter_base).name[:80]!r}, was not loaded by one. Load it by its Hub id; or set "
                "`merge_adapter`; or train without `push_to_hub`, and publish with `hf-cong publish run --base_model "
                "ID`."
            )
        stages = ["model"]
        if args.push_stages_to_hub and self.chain.pairs_missing:
            stages = ["data", "sft", "model"] if args.sft_num_train_epochs > 0 else ["data", "model"]
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        self.pushes = RunPushes(args.output_dir, name, stages=stages, private=args.hub_private_repo)
        self.pushes.preflight(self.facts.get("run"))

    def begin(self, identity: dict[str, Any], model: str, adapter: PeftConfig | None) -> None:
        """Names the run and its sources, and asks whether the repositories are free, or hold what it wrote."""
        if not self._main:
            return
        self.facts = run_facts(self.chain, identity, model, adapter)
        if self.pushes is not None:
            self.pushes.preflight(self.facts["run"])

    def follow(self, previous: dict[str, Any]) -> None:
        """Makes this the round after the run of a manifest, of which the strong model is the same. See [`Round`]."""
        if not self._main:
            return
        self.facts["sources"]["model"], earlier = previous["sources"]["model"], previous["settings"]
        self.facts["settings"]["round"] = earlier.get("round", 1) + 1
        if "alpha" in self.facts["settings"]:
            self.facts["settings"]["earlier_alphas"] = [*earlier.get("earlier_alphas", []), earlier["alpha"]]

    def fine_tuned(self, directory: Path) -> None:
        """Notes where the model of stage I is, and what it logged."""
        self.chain.stages["sft"] = f"{directory.name}/{'merged' if self.chain.args.merge_adapter else 'final'}"
        state = directory / "trainer_state.json"
        if self._main and state.exists():
            self.measures["sft"] = last_measures(json.loads(state.read_text(encoding="utf-8"))["log_history"])

    def ended(self, what: str) -> None:
        """Writes how far the run has come and, with `push_stages_to_hub`, publishes what has come of it."""
        self.write()
        if self._main and self.chain.args.push_stages_to_hub:
            self.pushes.push(what)

    def write(self) -> None:
        """Writes the manifest: atomically, and with what an earlier launch of the same run knew."""
        if self._main:
            write_manifest(self._path, self._content())

    def write_card(
        self, model_name: str | None, dataset_name: str | None, tags: str | list[str] | None, *, conversational: bool
    ) -> None:
        """
        Writes the card of the model, as it would be published now, to `README.md`.

        Args:
            model_name (`str`, *optional*): What to call a model that is not published.
            dataset_name (`str`, *optional*): The dataset that the prompts are of, if it does not tell.
            tags (`str` or `list[str]`, *optional*): Further tags.
            conversational (`bool`): Whether the tokenizer has a chat template.
        """
        if not self._main:
            return
        check_secrets({"the card's words": f"{model_name}\n{dataset_name}\n{tags}".encode()})
        if dataset_name is not None and dataset_name != self.facts["sources"]["prompts"]["name"]:
            self.facts["sources"]["prompts"] = source_of(dataset_name, repo_type="dataset")
        if tags is not None:
            self.facts["tags"] = [tags] if isinstance(tags, str) else list(tags)
        begun = self._path.exists() and read_manifest(self._path).get("run") == self.facts["run"]
        if begun:
            self.write()
        output_dir = Path(self.chain.args.output_dir)
        name = re.sub(r"[^A-Za-z0-9_]+", "-", model_name or output_dir.absolute().name)[:96].strip("-")
        manifest = read_manifest(self._path) if begun else self._content()
        card = model_card(
            manifest,
            repo_id=self.pushes.repo_id if self.pushes else name or "model",
            kind="adapter" if manifest["adapter"] and not manifest["merged"] else "model",
            repositories=self.pushes.repositories if self.pushes else None,
            conversational=conversational,
        )
        with replacing(output_dir / "README.md") as temporary:
            temporary.write_text(card, encoding="utf-8")

    @property
    def finished(self) -> bool:
        """Whether the run has ended, in this launch or in an earlier one."""
        return self._main and "dpo" in self._content()["stages"]

    @property
    def _path(self) -> Path:
        return self.chain.root / "manifest.json"

    def _content(self) -> dict[str, Any]:
        progress = {"stages": self.chain.stages, "counts": self.chain.stage_counts, "measures": self.measures}
        earlier = read_manifest(self._path) if self._path.exists() else {}
        if earlier.get("run") != self.facts["run"]:
            return {**self.facts, **progress}
        sources = {role: _better(source, earlier["sources"][role]) for role, source in self.facts["sources"].items()}
        known = {name: {**earlier[name], **now} for name, now in progress.items()}
        # PEFT fills an adapter's settings in; what was published of them first stays.
        return {**earlier, **self.facts, "adapter": earlier["adapter"], "sources": sources, **known}


def run_facts(chain: Chain, identity: dict[str, Any], model: str, adapter: PeftConfig | None) -> dict[str, Any]:
    """
    The part of a run's manifest that is known before its first stage. It may ask the Hub for licences.

    Args:
        chain ([`Chain`]): The data of the run, and its settings.
        identity (`dict[str, Any]`): What makes the run this run.
        model (`str`): The name of the strong model.
        adapter (`PeftConfig` or `None`): The adapter that is trained on it, if it is one.
    """
    args, names = chain.args, _TRAINING
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    sources = {"model": _source(model, identity["model"]), "weak_model": None, "weak_reference_model": None}
    sft_kwargs = {}
    if chain.pairs_missing:
        names, sft_kwargs = (*_WRITING, *_STAGE_ONE, *names), settings_identity(args.sft_kwargs or {})
    default = {field.name: field.default for field in fields(args)}
    names = (*names, *(name for name in _REFINING if getattr(args, name) != default[name]))
    if chain.decodes:
        if chain.steering is None:
            names = (*_DECODING, *names)
        else:
            names = (*(_STEERING if chain.steering.obstacle is None else _SEARCHING), *names)
    if chain.decodes or (chain.pairs_missing and (chain.refinement.ranks or chain.refinement.compares)):
        for role, name in zip(("weak_model", "weak_reference_model"), chain.weak.names, strict=True):
            sources[role] = _source(name, identity[role])
    given = {} if adapter is None else settings_identity(adapter.to_dict())
    return {
        "run": content_key(identity),
        "method": "ConG",
        "sources": {**sources, "prompts": _prompts_source(chain.splits["train"])},
        "settings": {
            **settings_identity({name: getattr(args, name) for name in names}),
            **{f"sft_{name}": value for name, value in sft_kwargs.items()},
            "effective_batch_size": batch,
        },
        "adapter": {name: given[name] for name in _ADAPTER if name in given} or None,
        "merged": args.merge_adapter,
    }


def last_measures(log_history: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The last value of everything that a Trainer logged while it trained."""
    found = {}
    for logs in log_history:
        if "train_runtime" not in logs:
            numbers = {name: _number(value) for name, value in logs.items() if not name.endswith(_OF_A_LAUNCH)}
            found |= {name: number for name, number in numbers.items() if number is not None}
    return found


def _number(value: Any) -> float | None:
    """A logged value, which may have been made text to be shown; `None` if it is none that JSON has."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _source(name: str, identity: str) -> dict[str, Any]:
    """A model: its `name`, `commit`, `license` and `language`."""
    if is_local(name):
        return describe_source(name) if name and Path(name).is_dir() else unknown_source(Path(name).name or "unnamed")
    return describe_source(name, commit_of(identity).get("revision"))


def _prompts_source(prompts: Dataset) -> dict[str, Any]:
    origin = prompts_origin(prompts)
    return unknown_source("unrecorded prompts") if origin is None else describe_source(*origin, "dataset")


def _better(source: dict | None, earlier: dict | None) -> dict | None:
    if source is None or earlier is None:
        return source
    same = (source["name"], source["commit"]) == (earlier["name"], earlier["commit"])
    return earlier if same and source["license"] is None else source
