# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import json
import logging

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from hf_cong.compatibility import (
    check_decoder_model,
    check_decoder_only,
    check_same_vocabulary,
    context_length,
    eos_token_ids,
    warn_if_identical,
)
from tests.tiny import FAMILIES, tiny_config, tiny_model, tiny_pair, tiny_tokenizer


def test_equal_vocabularies_pass_whatever_the_template():
    other = tiny_tokenizer()
    other.chat_template = "another"
    check_same_vocabulary(tiny_tokenizer(), other)


@pytest.mark.parametrize(("first", "second"), [(65, 66), (3, 300), (280, 281), (0, 2), (150, 319)])
def test_one_swapped_token_is_found(first, second):
    data = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    names = {id: token for token, id in tiny_tokenizer().get_vocab().items()}
    vocab = data["model"]["vocab"]
    vocab[names[first]], vocab[names[second]] = second, first
    for token in data["added_tokens"]:
        token["id"] = vocab[token["content"]]
    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(data)))
    with pytest.raises(ValueError, match=rf"2 ids differ: token {first} is "):
        check_same_vocabulary(tiny_tokenizer(), swapped)


def test_a_longer_vocabulary_is_found():
    longer = tiny_tokenizer()
    longer.add_tokens(["<|extra|>"])
    with pytest.raises(ValueError, match=r"token 320 is None in .* and '<\|extra\|>'"):
        check_same_vocabulary(tiny_tokenizer(), longer)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_served_family_passes(family):
    check_decoder_only(tiny_config(family), "policy")
    check_decoder_model(tiny_model(family), "policy")
    assert context_length(tiny_model(family)) == 512


def test_eos_token_ids():
    model = tiny_model("llama", eos_token_id=7)
    assert eos_token_ids(model) == [7]
    model.generation_config.eos_token_id = [7, 9]
    assert eos_token_ids(model) == [7, 9]
    assert eos_token_ids(tiny_model("llama")) == []


def test_divergence_is_measured(caplog):
    policy, reference = tiny_pair("gpt2")
    with caplog.at_level(logging.WARNING, "hf_cong"):
        warn_if_identical(policy, reference)
        assert not caplog.text
        with torch.no_grad():
            for ours, theirs in zip(reference.parameters(), policy.parameters(), strict=True):
                ours.copy_(theirs)
        warn_if_identical(policy, reference)
    assert "same model as far as text shows" in caplog.text
