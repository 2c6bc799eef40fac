# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
from hf_cong.chain import Chain

from .distributed.run_cong import config, pairs
from .processes import fork, on_cpu


@on_cpu
def test_machines_that_do_not_share_output_dir_are_refused(tmp_path, capfd):
    rows = pairs(4)
    assert fork(2, lambda rank: Chain(config(tmp_path / "one"), rows)) == [0, 0]
    assert not (tmp_path / "one" / "_cong").exists()  # nothing stays behind
    assert "ValueError" not in capfd.readouterr().err

    assert fork(2, lambda rank: Chain(config(tmp_path / f"machine-{rank}"), rows)) == [0, 1]
    said = capfd.readouterr().err
    assert "ValueError: `output_dir` is " in said and "process 1 does not see. All machines must share it" in said
