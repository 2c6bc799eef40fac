# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The command `hf-cong train --stage`, launched as users launch it: killed, resumed, on several processes, sharded."""

import json
import shutil
import signal

import pytest
from safetensors.torch import load_file

from hf_cong.checkpoints import damage

from .launches import HALF, STAGES, kill, launch, progress_of, start, wait_for
from .test_staged import artefacts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The artefacts of one launch of all stages that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    launch(recipe, output_dir, "all")
    return artefacts(output_dir)


@pytest.fixture(scope="module")
def two_dir(recipe, tmp_path_factory):
    """Where launches by stage on two processes ended, with the same rows to an update."""
    output_dir = tmp_path_factory.mktemp("two")
    for stage in STAGES:
        launch(recipe, output_dir, stage, *HALF, processes=2)
    return output_dir


@pytest.fixture(scope="module")
def two(two_dir):
    return artefacts(two_dir)


@pytest.mark.parametrize("processes", [1, 2])
def test_stages_that_were_killed_are_repeated_to_the_same_bytes(recipe, request, tmp_path, processes):
    batch = HALF if processes == 2 else ()
    for number, stage in enumerate(STAGES):
        process = start(recipe, tmp_path, stage, *batch, processes=processes)
        wait_for(process, lambda: progress_of(tmp_path, stage) >= 2 + 3 * number)  # noqa: B023
        kill(process)
        # What writes may go on with another number of processes.
        launch(recipe, tmp_path, stage, *batch, processes=1 if stage in ("decode", "sample") else processes)
    assert artefacts(tmp_path) == request.getfixturevalue("whole" if processes == 1 else "two")


@pytest.fixture
def interruptible():
    """Shells start what is in the background deaf to Ctrl-C, which all that it starts inherits."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_says_one_line_and_the_same_command_goes_on(recipe, whole, tmp_path):
    for stage in ("decode", "dpo"):
        process = start(recipe, tmp_path, "all")
        wait_for(process, lambda: progress_of(tmp_path, stage) >= 4)  # noqa: B023
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 130, said[-4000:]
        assert said.splitlines()[-1].startswith("hf-cong train: interrupted. What was finished is kept")
        assert "Traceback" not in said and "failed in process" not in said
        assert f"ConG {stage} begins." in said and f"ConG {stage} ends." not in said
    launch(recipe, tmp_path, "all")
    assert artefacts(tmp_path) == whole


def difference(one, other):
    """
    The largest and the mean distance of two checkpoints' weights.

    Another order of summation is another rounding, and where a gradient is nearly nothing Adam makes a step of it.
    """
    one, other = load_file(one), load_file(other)
    distances = [(one[name] - tensor).abs() for name, tensor in other.items()]
    largest = max(distance.max().item() for distance in distances)
    return largest, sum(d.sum().item() for d in distances) / sum(d.numel() for d in distances)


def write(directory, **files):
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in files]


def test_two_processes_with_the_same_global_batch_end_as_one(recipe, whole, two, tmp_path):
    (decoded,) = [name for name in whole if name.startswith("_cong/decode") and name.endswith("completions.parquet")]
    assert two[decoded] == whole[decoded]
    largest, mean = difference(*write(tmp_path, one=whole["model.safetensors"], two=two["model.safetensors"]))
    assert mean < 2e-8 and largest < 1e-4
    (tuned,) = [content for name, content in whole.items() if name.endswith("final/model.safetensors")]
    _, mean = difference(*write(tmp_path, one=tuned, two=two["model.safetensors"]))
    assert mean > 1e-4  # what stage II does, beside it


def test_fsdp2_of_transformers_trains_both_stages_to_the_weights_of_whole_models(recipe, two_dir, tmp_path):
    sharded = [*HALF, "--model_init_kwargs", json.dumps({"distributed_config": {"fsdp_size": 2}})]
    sharded += ["--save_strategy", "no", "--precompute_ref_log_probs", "false"]
    two = artefacts(two_dir)
    (tuned,) = [name for name in two if name.endswith("final/model.safetensors")]
    for stage in ("decode", "sample", "pairs"):
        for directory in two_dir.glob(f"_cong/{stage}-*"):
            shutil.copytree(directory, tmp_path / "_cong" / directory.name)
    said = launch(recipe, tmp_path, "decode", *sharded, processes=2, status=0)
    assert "Writing completions" not in said  # the same chain: nothing is left to decode
    launch(recipe, tmp_path, "sft", *sharded, processes=2)
    largest, mean = difference(tmp_path / tuned, two_dir / tuned)
    assert mean < 2e-8 and largest < 1e-4
    shutil.rmtree((tmp_path / tuned).parents[1])
    shutil.copytree((two_dir / tuned).parents[1], (tmp_path / tuned).parents[1])
    launch(recipe, tmp_path, "dpo", *sharded, processes=2)
    largest, mean = difference(tmp_path / "model.safetensors", two_dir / "model.safetensors")
    assert mean < 2e-8 and largest < 1e-4
    _, mean = difference(tmp_path / "model.safetensors", tmp_path / tuned)
    assert mean > 1e-4


def test_sharded_models_need_the_reference_as_a_model(recipe, two_dir, tmp_path):
    shutil.copytree(two_dir / "_cong", tmp_path / "_cong")
    sharded = ["--model_init_kwargs", json.dumps({"distributed_config": {"fsdp_size": 2}})]
    said = launch(recipe, tmp_path, "dpo", *HALF, *sharded, status=2)
    assert "`precompute_ref_log_probs=True` reads the weights" in said
    sharded += ["--precompute_ref_log_probs", "false", "--save_strategy", "no", "--enable_jit_checkpoint", "true"]
    said = launch(recipe, tmp_path, "dpo", *HALF, *sharded, processes=2, status=1)
    assert "`enable_jit_checkpoint` saves what training can go on from" in said


def test_sigterm_ends_all_processes_at_one_step_with_a_whole_checkpoint(recipe, two_dir, tmp_path):
    (decoded,) = two_dir.glob("_cong/decode-*")
    shutil.copytree(decoded, tmp_path / "_cong" / decoded.name)
    options = (*HALF, "--enable_jit_checkpoint", "true", "--save_steps", "100")
    process = start(recipe, tmp_path, "sft", *options, "--sft_num_train_epochs", "40", processes=2)
    wait_for(process, lambda: list(tmp_path.glob("_cong/sft-*/identity.json")))
    for line in process.stdout:
        if "'loss'" in line:
            break
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    (checkpoint,) = tmp_path.glob("_cong/sft-*/checkpoint-*")
    assert "SIGTERM: training was stopped after step" in said and damage(checkpoint) is None
    assert not list(tmp_path.glob("_cong/sft-*/final"))
