# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What others of the ecosystem keep on the Hub: decoding loops, remote code, metrics in Spaces, trainers that push."""

import evaluate
import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

PROMPT = torch.tensor([[5, 17, 3, 40, 22]])

_LOOP = """
from transformers import GenerationMixin

from .last import repeat_last


def generate(model, times=1, **kwargs):
    return repeat_last(GenerationMixin.generate(model, **kwargs), times)
"""
_HELPER = """
import torch


def repeat_last(ids, times):
    return torch.cat([ids, ids[:, -1:].repeat(1, times)], dim=1)
"""


def test_a_decoding_loop(hub):
    files = {"custom_generate/generate.py": _LOOP, "custom_generate/last.py": _HELPER}
    hub.add("alice/decoding", files | {"README.md": "---\ntags: [custom_generate]\nlicense: mit\n---\n"})
    model = tiny_model("llama")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(PROMPT, **options)
    looped = model.generate(
        inputs=PROMPT, **options, custom_generate="alice/decoding", trust_remote_code=True, times=3
    )
    assert looped[0].tolist() == plain[0].tolist() + plain[0, -1:].tolist() * 3
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.generate(inputs=PROMPT, **options, custom_generate="alice/decoding", trust_remote_code=False)


_METRIC = """
import datasets
import evaluate


class Halves(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("float64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions):
        return {"halves": sum(predictions) / 2}
"""


def test_a_metric_in_a_space(hub):
    card = "---\nsdk: gradio\nlicense: mit\n---\n"
    hub.add("alice/halves", {"halves.py": _METRIC, "README.md": card}, kind="spaces")
    metric = evaluate.load("alice/halves", module_type="metric", keep_in_memory=True)
    assert metric.compute(predictions=[1.0, 4.0]) == {"halves": 2.5}
    with pytest.raises(FileNotFoundError):
        evaluate.load("alice/quarters")


def test_a_trainer_pushes_as_it_goes(hub, tmp_path):
    tokenizer = tiny_tokenizer()
    rows = [{"prompt": "the cat", "chosen": " sat on a mat", "rejected": " ran"}] * 4
    config = DPOConfig(
        output_dir=tmp_path,
        push_to_hub=True,
        hub_model_id="alice/trained",
        hub_strategy="end",
        hub_private_repo=True,
        max_steps=2,
        per_device_train_batch_size=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    model, reference = tiny_pair("llama", vocab_size=len(tokenizer))
    dataset = Dataset.from_list(rows)
    trainer = DPOTrainer(model, reference, args=config, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    trainer.push_to_hub()
    info = HfApi().model_info("alice/trained")
    assert info.private and {"dpo", "trl"} <= {*info.tags}
    loaded = AutoModelForCausalLM.from_pretrained("alice/trained")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in trainer.model.state_dict().items())
    assert AutoTokenizer.from_pretrained("alice/trained").get_vocab() == tokenizer.get_vocab()
