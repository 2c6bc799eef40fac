# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The card of a dataset, whose `configs` and `dataset_info` are read off its parquet files."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
from datasets import DatasetInfo, Features, List, SplitDict, SplitInfo, Value
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from .facts import common_facts, count_rows, optional_table, read_manifest, setting_rows
from .rendering import Markdown, render, table
from .sources import ROLES, check_repo_id, hub_id, languages, source_link
from .terms import terms_of
from .writing import papers, writing_facts

_PATH = re.compile(r"([\w-]+)/(\w+?)(-\d{5}-of-\d{5})?\.parquet", re.ASCII)
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
}
# Settings that have a part in what is written.
_WRITING = (
    "chosen_from",
    "alpha",
    "steering_beta",
    "beam_width",
    "successors_per_beam",
    "chunk_length",
    "plausibility_threshold",
    "max_new_tokens",
    "num_chosen_samples",
    "chosen_share",
    "rejected_from",
    "drop_contradicting",
    "temperature",
    "top_p",
    "top_k",
    "do_sample",
    "repetition_penalty",
    "seed",
    "drop_truncated",
    "max_length",
    "invalid_prompts",
)
_COLUMNS = {
    "prompt_id": "names the prompt by its content, in every configuration alike",
    "prompt": "what was to be answered",
    "completion": "the answer",
    "completion_ids": "the answer in tokens of who wrote it, without its end",
    "chosen": "the preferred answer",
    "rejected": "the dispreferred answer",
    "finish_reason": "`stop`, or `length` if it was cut",
    "alpha": "α, the weight kept on the weak policy",
    "beta": "β, the weight of the pair that steered",
    "plausibility_threshold": "τ",
    "reward": "the weak pair's implicit reward of the answer, in nats",
    "chosen_reward": "the weak pair's implicit reward of the preferred answer, in nats",
    "rejected_reward": "the same of the dispreferred answer",
    "seed": "the seed of this answer, made of that of the run and the prompt",
    "model": "who wrote the answer",
}


def dataset_card(
    manifest: Mapping[str, Any],
    *,
    repo_id: str,
    files: Mapping[str, Path | bytes],
    repositories: Mapping[str, str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """
    The card of what a run decoded and sampled.

    Args:
        manifest (`Mapping`):
            As for [`model_card`].
        repo_id (`str`):
            Where the dataset is published.
        files (`Mapping[str, Path | bytes]`):
            The dataset by path in the repository: `<config>/<split>.parquet`, or in parts
            `<config>/<split>-00000-of-00002.parquet`. Other files are passed over.
        repositories, license, language:
            As for [`model_card`].

    Returns:
        `str`: the whole README.md, with `configs` and `dataset_info`.

    Raises:
        ValueError: as [`model_card`], and if `files` has no dataset.
    """
    check_repo_id(repo_id)
    known = read_manifest(manifest)
    sources = known["sources"]
    found = dataset_metadata(files)
    preferences = any("rejected" in columns for columns in found.columns.values())
    who = writing_facts(known, "data")
    steered = who["writing"] in ("steered", "searched")
    writer = sources.get("model" if steered else "writer")  # of completions that no pair wrote by itself
    # A run tells what it decoded; without one, the data tell of a pair only if it wrote.
    told = known["stages"].get("decode") if known["stages"] else sources.get("weak_model")
    decoded = writer is None and bool(told)
    sampled = preferences and not who["worst"]
    roles = [role for role in ROLES if role != "model" or sampled or steered or not (decoded or writer)]
    fine_tuned = known["stages"].get("sft") and not who["untouched"] and who["writing"] != "given"
    if decoded:
        who["writing"] = "contrast"
    elif not steered and writer and sources.get("weak_model"):
        who["writing"], steered = "steered", True
    prompts = hub_id(sources.get("prompts"))
    terms = terms_of(sources, roles, repo_id, "dataset", stated=license)
    settings = {name: value for name, value in known["settings"].items() if name in _WRITING}
    metadata = {
        **terms.metadata,
        "language": languages(language, sources.get("prompts")),
        "task_categories": ["text-generation"],
        "size_categories": [found.size_category],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "source_datasets": [prompts] if prompts else None,
        "tags": (["cong", "weak-to-strong", "contrastive-decoding"] if decoded else ["weak-to-strong"] * steered)
        + ["synthetic", "alignment", "trl", "sft"]
        + (["dpo", "preference"] if preferences else []),
        **found.metadata,
    }
    facts = {
        **common_facts(
            {**known, "sources": {role: sources.get(role) for role in roles}}, repo_id, (), terms, repositories
        ),
        "configs": list(found.columns),
        "columns": {name: _columns(columns, decoded and not who["given"]) for name, columns in found.columns.items()},
        "splits": table(found.split_rows),
        "split": found.split_rows[0]["split"],
        "config": found.split_rows[0]["config"],
        "preferences": preferences,
        "base": source_link(sources.get("model")),
        "policy": source_link(sources.get("weak_model")),
        "reference": source_link(sources.get("weak_reference_model")),
        "prompts": source_link(sources["prompts"], "dataset") if prompts else None,
        **who,
        "writer": source_link(writer),
        "decoded": decoded,
        "cited": [*(["cong"] if decoded or preferences else []), *papers(who["writing"])],
        "fine_tuned": fine_tuned,
        "settings": optional_table(setting_rows(settings)),
        "counts": optional_table(count_rows(known["counts"], ["samples", "sft", "dpo"])),
    }
    return render("dataset", facts, metadata)


def _columns(types: Mapping[str, str], decoded: bool) -> Markdown:
    by_pair = {name: f"{_COLUMNS[name]}, by the weak pair" for name in ("completion", "chosen") if decoded}
    meanings = {**_COLUMNS, **by_pair}
    rows = [
        {"column": name, "type": kind, "meaning": Markdown(meanings[name]) if name in meanings else None}
        for name, kind in types.items()
    ]
    return table(rows)


class DatasetFacts(NamedTuple):
    """What the files of a dataset say."""

    metadata: dict[str, Any]
    size_category: str
    columns: dict[str, dict[str, str]]  # configuration -> column -> type
    split_rows: list[dict[str, object]]


def dataset_metadata(files: Mapping[str, Path | bytes]) -> DatasetFacts:
    """
    `configs`, `dataset_info` and the size of a dataset.

    Args:
        files (`Mapping[str, Path | bytes]`): By path in the repository, `<config>/<split>.parquet`.

    Raises:
        ValueError: if there is none, or the parts of a configuration differ in their columns.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(files):
        if match := _PATH.fullmatch(path):
            found.setdefault(match[1], {}).setdefault(match[2], []).append(path)
    if not found:
        raise ValueError(
            f"`files` has no dataset: none of {sorted(files)!r:.80} is a `<config>/<split>.parquet`. Name them so."
        )
    infos, configs, rows, columns = DatasetInfosDict(), [], [], {}
    for config, splits in found.items():
        order = sorted(splits, key=lambda split: (split != "train", split))
        info = DatasetInfo(splits=SplitDict(), download_size=0, dataset_size=0)
        for split in order:
            examples = size = 0
            for path in splits[split]:
                content = files[path]
                source = io.BytesIO(content) if isinstance(content, bytes) else content
                part = pyarrow.parquet.read_table(source)
                features = Features.from_arrow_schema(part.schema)
                if info.features not in (None, features):
                    raise ValueError(f"{path} has the columns {list(features)!r:.80}, unlike the rest of {config!r}.")
                info.features = features
                examples, size = examples + part.num_rows, size + part.nbytes
                info.download_size += len(content) if isinstance(content, bytes) else Path(content).stat().st_size
            info.splits.add(SplitInfo(split, num_bytes=size, num_examples=examples))
            info.dataset_size += size
            rows.append({"config": config, "split": split, "rows": examples})
        infos[config] = info
        paths = {split: names if len(names) > 1 else names[0] for split, names in splits.items()}
        data_files = [{"split": split, "path": paths[split]} for split in order]
        configs.append({"config_name": config, "data_files": data_files})
        columns[config] = {name: _type(feature) for name, feature in info.features.items()}
    card = DatasetCardData()
    infos.to_dataset_card_data(card)
    total = sum(row["rows"] for row in rows)
    category = next((name for limit, name in _SIZES.items() if total < limit), "100M<n<1B")
    return DatasetFacts({"configs": configs, "dataset_info": card.to_dict()["dataset_info"]}, category, columns, rows)


def _type(feature: object) -> str:
    if isinstance(feature, Value):
        return feature.dtype
    items = feature.feature if isinstance(feature, List) else None
    if isinstance(items, Value):
        return f"list of {items.dtype}"
    is_chat = isinstance(items, dict) and items.keys() >= {"role", "content"}
    return "messages" if is_chat else type(feature).__name__
