# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A judge behind `vllm serve`. Needs an environment with vLLM; the server takes half a minute to start."""

import os
import sys
from pathlib import Path

import pytest

from tests.evaluation.judges.verdicts import check_served, verdict_model, verdict_tokenizer
from tests.search.served import relaying, serving

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def test_vllm_serve_judges_as_its_model_does_here(tmp_path):
    verdict_model().save_pretrained(tmp_path / "model")
    verdict_tokenizer().save_pretrained(tmp_path / "model")
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "1024", "--served-model-name", "judge"]
    command = [Path(sys.executable).parent / "vllm", "serve", tmp_path / "model", *options]
    with serving(command, tmp_path / "log") as address, relaying(address) as relay:
        relay.model = ""  # it serves one
        check_served(relay, tmp_path)
