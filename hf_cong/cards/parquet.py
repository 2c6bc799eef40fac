# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The metadata of a dataset, read off its parquet files."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

_PATH = re.compile(r"([\w-]+)/(\w+?)(-\d{5}-of-\d{5})?\.parquet", re.ASCII)
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
}


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
        files_of = [{"split": split, "path": paths if len(paths) > 1 else paths[0]} for split, paths in splits.items()]
        configs.append(
            {"config_name": config, "data_files": sorted(files_of, key=lambda one: order.index(one["split"]))}
        )
        columns[config] = {name: _type(feature) for name, feature in info.features.items()}
    card = DatasetCardData()
    infos.to_dataset_card_data(card)
    total = sum(row["rows"] for row in rows)
    category = next((name for limit, name in _SIZES.items() if total < limit), "100M<n<1B")
    return DatasetFacts({"configs": configs, "dataset_info": card.to_dict()["dataset_info"]}, category, columns, rows)


def _type(feature: object) -> str:
    return (
        "messages" if isinstance(feature, list) or type(feature).__name__ in ("List", "LargeList") else feature.dtype
    )
