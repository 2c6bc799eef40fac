# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import shutil

import pytest
from datasets import Dataset

from hf_cong.stages import check_dataset, share

ROWS = Dataset.from_list([{"prompt": f"p{i}", "chosen": f"c{i}", "topic": i} for i in range(40)])


def test_a_format_that_hides_what_is_read_is_refused():
    check_dataset(ROWS, "train_dataset")
    check_dataset(ROWS.with_format("torch", columns=["prompt", "chosen"]), "train_dataset")  # `topic` is not read
    hidden = ROWS.with_format(columns=["chosen", "topic"])
    with pytest.raises(
        ValueError, match=r"`eval_dataset` hides the columns \['prompt'\].*`dataset\.with_format\(None\)`"
    ):
        check_dataset(hidden, "eval_dataset")
    check_dataset(hidden.with_format(None), "eval_dataset")


def test_a_shared_dataset_is_stored_once(tmp_path, caplog):
    first = share(ROWS, tmp_path / "dataset")
    arrow = next((tmp_path / "dataset").glob("*.arrow"))
    written = arrow.stat().st_mtime_ns
    # a cache that lies beside it is no damage
    first.map(lambda row: {"length": len(row["prompt"])})
    assert len(list((tmp_path / "dataset").glob("*.arrow"))) == 2
    assert share(ROWS, tmp_path / "dataset").to_list() == first.to_list() == ROWS.to_list()
    assert arrow.stat().st_mtime_ns == written and not caplog.records


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json", "files.json"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_shared_dataset_is_stored_anew_once(tmp_path, caplog, name, harm):
    directory = tmp_path / "dataset"
    share(ROWS, directory)
    file = directory / name
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    assert share(ROWS, directory).to_list() == ROWS.to_list()
    assert [record.getMessage() for record in caplog.records if "is written anew" in record.getMessage()]
    caplog.clear()
    assert share(ROWS, directory).to_list() == ROWS.to_list()
    assert not caplog.records


@pytest.mark.parametrize("size", [0, 50, -300])
def test_a_damaged_cache_beside_it_is_computed_anew(tmp_path, caplog, size):
    def lengths(row):
        return {"length": len(row["prompt"])}

    directory = tmp_path / "dataset"
    expected = share(ROWS, directory).map(lengths).to_list()
    share(ROWS, directory)
    (cache,) = directory.glob("cache-*.arrow")
    assert not caplog.records
    cache.write_bytes(cache.read_bytes()[:size])
    assert share(ROWS, directory).map(lengths).to_list() == expected
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "hf_cong.stages"]
    assert cache.name in warning and "computed anew" in warning


def test_what_a_kill_left_of_a_shared_dataset_is_no_dataset(tmp_path):
    share(ROWS, tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b.incomplete")
    assert share(ROWS.select(range(3)), tmp_path / "b").to_list() == ROWS.to_list()[:3]
