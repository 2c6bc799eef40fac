# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tiny random reward models, and one whose head is code that comes with the checkpoint."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tests.tiny import CHAT_TEMPLATE, tiny_config, tiny_tokenizer

GATED = '''
import torch
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class GatedReward(LlamaPreTrainedModel):
    """Several rewards, weighed by a gate on the prompt, as ArmoRM has: one number for each text."""

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_layer = torch.nn.Linear(config.hidden_size, 5, bias=False)
        self.gate = torch.nn.Linear(config.hidden_size, 5)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        last = (input_ids != self.config.pad_token_id).long().cumsum(-1).argmax(-1)
        rewards = self.regression_layer(hidden[torch.arange(len(last)), last])
        scores = (self.gate(hidden[:, 3]).softmax(-1) * rewards).sum(-1)
        return SequenceClassifierOutput(logits=rewards if SEVERAL else scores)
'''


def reward_model(family="llama", seed=0, **overrides):
    torch.manual_seed(seed)
    config = tiny_config(family, vocab_size=320, num_labels=1, **overrides)
    return AutoModelForSequenceClassification.from_config(config).float().eval()


def tokenizer(template=CHAT_TEMPLATE):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def save_gated(folder: Path, *, several: bool) -> tuple[str, PreTrainedModel]:
    """Saves a model with its head's code, and returns both; with `several` it gives five scores for a text."""
    (folder / "modeling_gated.py").write_text(GATED.replace("SEVERAL", str(several)))
    namespace = {"__name__": "gated"}
    exec((folder / "modeling_gated.py").read_text(), namespace)  # noqa: S102
    torch.manual_seed(0)
    model = namespace["GatedReward"](tiny_config("llama", vocab_size=320, pad_token_id=0)).eval()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_gated.GatedReward"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), model
