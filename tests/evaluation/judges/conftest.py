# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import pytest

from tests.evaluation.judges.reward_models import save_gated
from tests.evaluation.judges.stand_in import stand_in
from tests.evaluation.judges.verdicts import verdict_model, verdict_tokenizer
from tests.search.served import transformers_serve


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The relay before a real server of `verdict_model()`. There is one for all."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with transformers_serve(tmp_path_factory.mktemp("server"), verdict_model(), verdict_tokenizer()) as relay:
        yield relay


@pytest.fixture
def relay(served):
    served.reset()
    return served


@pytest.fixture
def server():
    with stand_in() as server:
        yield server


@pytest.fixture(scope="session")
def gated(tmp_path_factory):
    """Folders and models with a head of their own, whose code is in the folder; the second gives five scores."""
    return [save_gated(tmp_path_factory.mktemp("gated"), several=several) for several in (False, True)]
