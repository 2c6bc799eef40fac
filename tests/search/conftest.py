# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import pytest

from hf_cong import ImplicitReward
from tests.search.served import letters_model, letters_tokenizer, transformers_serve
from tests.tiny import tiny_pair, tiny_tokenizer


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The relay before a real server of `letters_model()`. There is one for all."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with transformers_serve(tmp_path_factory.mktemp("server"), letters_model(), letters_tokenizer()) as relay:
        yield relay


@pytest.fixture
def relay(served):
    served.reset()
    return served


@pytest.fixture(scope="session")
def reward():
    """A weak pair of the letters."""
    tokenizer = letters_tokenizer()
    return ImplicitReward(*tiny_pair("llama", 3, vocab_size=len(tokenizer)), tokenizer)


@pytest.fixture(scope="session")
def other_reward():
    """A weak pair of another vocabulary."""
    return ImplicitReward(*tiny_pair("qwen2", 4, vocab_size=len(tiny_tokenizer())), tiny_tokenizer())
