# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.judges.reward_models import save_gated
from tests.judges.stand_in import stand_in
from tests.search.served import transformers_serve
from tests.tiny import CHAT_TEMPLATE, tiny_model

VERDICTS = ["\nVerdict: A", "\nVerdict: B", "\nVerdict: tie"]
_SPECIAL = ["<end>", "<pad>", "<|im_start|>", "<|im_end|>"]


def verdict_tokenizer() -> PreTrainedTokenizerFast:
    """A few letters, and each verdict one token. What else a prompt holds is no token."""
    vocabulary = {token: id for id, token in enumerate([*_SPECIAL, *"ehinorst", *VERDICTS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", extra_special_tokens=_SPECIAL[2:]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def verdict_model():
    """A random model that ends with any of the verdicts: some of its answers are judgements, and some are not."""
    tokenizer = verdict_tokenizer()
    model = tiny_model("llama", 0, vocab_size=len(tokenizer), max_position_embeddings=4096)
    ends = tokenizer.convert_tokens_to_ids(VERDICTS)
    model.generation_config.update(do_sample=True, eos_token_id=[0, *ends], pad_token_id=1)
    return model


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The relay before a real server of `verdict_model()`. It takes ten seconds to start, so there is one for all."""
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
