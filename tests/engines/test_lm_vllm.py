# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""lm-eval's stock `--model vllm` on a saved pair. `make test-vllm` runs it."""

import os
from unittest import mock

import pytest

from hf_cong import ContrastivePairForCausalLM
from tests.tiny import tiny_pair

pytest.importorskip("vllm", reason="vLLM is not installed: `make test-vllm`")
pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from lm_eval.models.vllm_causallms import VLLM
from vllm.distributed import cleanup_dist_env_and_memory

from hf_cong.pair import vllm_models
from tests.engines import saved_in_vllm
from tests.evaluation.lm.harness import TOKENIZER, answers, by_hand, furthest, save

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def in_vllm(directory, **engine):
    settings = {name: saved_in_vllm.ENGINE[name] for name in ("dtype", "gpu_memory_utilization", "enforce_eager")}
    with mock.patch.dict(os.environ, saved_in_vllm._ENVIRONMENT):
        try:
            lm = VLLM(pretrained=directory, max_model_len=256, batch_size="auto", **settings, **engine)
            got = answers(lm)
            lm.model.llm_engine.engine_core.shutdown()
        finally:
            cleanup_dist_env_and_memory()
    return got


def whole_characters(texts):
    """vLLM holds a character back whose last bytes are still to come, and tiny models leave some open."""
    return [text.rstrip("\N{REPLACEMENT CHARACTER}") for text in texts]


def test_stock_vllm_on_a_saved_pair(tmp_path, monkeypatch):
    """Likelihoods are unmasked, generations are on the plausible set, from one engine."""
    members = tiny_pair("qwen2", **{**saved_in_vllm.SHAPE, "vocab_size": len(TOKENIZER)})
    pair = ContrastivePairForCausalLM.from_pair(*members, alpha=0.3, plausibility_threshold=0.2)
    directory = save(tmp_path, pair=pair)["pair"]
    scored, rolled, written = by_hand(members, alpha=0.3, plausibility_threshold=0.2)
    got = in_vllm(directory)
    assert whole_characters(got[2]) == whole_characters(written)
    assert furthest((*got[:2], written), (scored, rolled, written)) < 1e-3
    # Controls: one τ for all that an engine computes would be seen, on either side.
    unmasked = in_vllm(directory, hf_overrides={"plausibility_threshold": 0.0})
    assert whole_characters(unmasked[2]) != whole_characters(written)
    monkeypatch.setattr(vllm_models, "is_scoring", lambda: False)
    assert in_vllm(directory)[1][0] < -1e3  # tokens outside the plausible set count as impossible
