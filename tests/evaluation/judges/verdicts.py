# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A tiny random model that gives verdicts now and then, and what a real server of it must answer as a judge."""

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from hf_cong.evaluation.judges.endpoint_judge import EndpointJudge, judge_prompt, read_verdict
from hf_cong.journal import Journal
from tests.tiny import CHAT_TEMPLATE, tiny_model

_SPECIAL = ["<end>", "<pad>", "<|im_start|>", "<|im_end|>"]
_VERDICTS = ["\nVerdict: A", "\nVerdict: B", "\nVerdict: tie"]
_LONGEST = 24


def verdict_tokenizer() -> PreTrainedTokenizerFast:
    """A few letters, and each verdict one token. What else a prompt holds is no token."""
    vocabulary = {token: id for id, token in enumerate([*_SPECIAL, *"ehinorst", *_VERDICTS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", extra_special_tokens=_SPECIAL[2:]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def verdict_model():
    """A random model, which any special token ends: some of its answers are judgements, and some are not."""
    # Heads of 32, of which every backend of vLLM has kernels.
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024}
    model = tiny_model("llama", 25, vocab_size=len(verdict_tokenizer()), **shape)
    model.generation_config.update(do_sample=True, eos_token_id=list(range(len(_SPECIAL))), pad_token_id=1)
    return model


def check_served(relay, tmp_path):
    """The server's answers, and what it says they cost, are those of the model in this process."""
    prompts = ["her", "the shore", "those", "it rose", "no one", "sent", "hero", "stone"]
    first, second = ([f"{word} {one}" for one in prompts] for word in ("other", "their"))
    judge = EndpointJudge(relay.url, max_new_tokens=_LONGEST, concurrency=2)
    with Journal(tmp_path / "journal.jsonl", judge.identity) as journal, judge.keep_answers(journal):
        verdicts = judge.verdicts(prompts, first, second)
    model, tokenizer = verdict_model(), verdict_tokenizer()

    def answer(*texts):
        message = [{"role": "user", "content": judge_prompt(*texts)}]
        ids = torch.tensor([tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)])
        written = model.generate(ids, do_sample=False, max_new_tokens=_LONGEST)[0, ids.shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        return text, read_verdict(text, "length" if len(written) == _LONGEST else "stop")

    rows = zip(prompts, first, second, strict=True)
    expected = [[answer(prompt, *texts) for texts in ((a, b), (b, a))] for prompt, a, b in rows]
    assert [verdict["answers"] for verdict in verdicts] == [[text for text, _ in pair] for pair in expected]
    assert [verdict["orders"] for verdict in verdicts] == [[verdict for _, verdict in pair] for pair in expected]
    assert {verdict for pair in expected for _, verdict in pair} == {"A", "B", "tie", None}  # or nothing was shown
    assert judge.cost == {**relay.usage, "without_usage": 0}
    assert judge.cost["requests"] == 2 * len(prompts)
