# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A transformers model or pair: `generate` on left-padded batches, in which every row draws its own numbers."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from peft import PeftModel
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from ..compatibility import context_length, eos_token_ids
from ..pair import StacksForCausalLM
from ..sampling import Decoding, DrawToken
from .base import Answer, Engine, Request

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def decoding_with(model: PreTrainedModel | PeftModel, generation_config: GenerationConfig) -> Iterator[None]:
    """Eval mode, and these settings in the place of the model's own, which `generate` falls back on."""
    holder = model.get_base_model() if isinstance(model, PeftModel) else model
    own, training = holder.generation_config, model.training
    holder.generation_config = generation_config
    model.eval()
    try:
        yield
    finally:
        holder.generation_config = own
        model.train(training)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether fewer rows may do: of any device, the CPU included."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


class TransformersEngine(Engine):
    """
    A model in this process.

    A batch that does not fit in memory is written in halves, and so are the batches after it. In float32 that changes
    no completion.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model. While it writes, it is in eval mode.

    Raises:
        ValueError: if it is an encoder-decoder.
    """

    writer = "transformers"
    batch_size = 8

    def __init__(self, model: PreTrainedModel | PeftModel):
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"`engine` is an encoder-decoder ({model.config.model_type!r}), which does not continue its prompt. "
                "Use a decoder-only model, one that `AutoModelForCausalLM` loads."
            )
        self.model = model

    def describe(self) -> dict:
        members = self._members()
        settings = self.model.config.settings if len(members) > 1 else {}
        weights = {role: _hash_weights(model) for role, model in members.items()}
        names = {role: model.name_or_path or f"weights {weights[role]}" for role, model in members.items()}
        names_and_weights = {role: {"model": names[role], "weights": weights[role]} for role in names}
        return {
            "model": self.model.name_or_path or " vs ".join(names.values()),
            **{"alpha": None, "beta": None, "plausibility_threshold": None, **settings},
            **(names_and_weights if len(members) > 1 else {"weights": weights["model"]}),
            "identity": {**weights, **settings, "eos_token_ids": eos_token_ids(self.model)},
        }

    def prepare(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[list[int]], decoding: Decoding) -> dict:
        rows = min(model.get_input_embeddings().weight.shape[0] for model in self._members().values())
        needed = max(len(tokenizer), max(map(max, prompt_ids)) + 1)
        if needed > rows:
            raise ValueError(
                f"`tokenizer` has {needed} tokens, and the embedding of `engine` has {rows} rows. Pass the engine's "
                "own tokenizer."
            )
        eos = {*eos_token_ids(self.model), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
        special = {
            "bos_token_id": self.model.generation_config.bos_token_id,
            "eos_token_id": sorted(eos),
            "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos, default=0),
        }
        # Everything `generate` is told. It is greedy: with `do_sample`, `DrawToken` is what it follows.
        self._config = GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            repetition_penalty=float(decoding.repetition_penalty),
            **special,
        )
        self._warpers = decoding.warpers() if decoding.do_sample else None
        return special

    @property
    def context_length(self) -> int | None:
        return context_length(self.model)

    def complete(self, batches: list[list[Request]]) -> Iterator[list[Answer]]:
        most_rows = max(map(len, batches), default=1)
        with decoding_with(self.model, self._config):
            for batch in batches:
                answers = []
                while len(answers) < len(batch):
                    part = batch[len(answers) : len(answers) + most_rows]
                    written = self._generate(part)
                    if written is None:
                        clear_device_cache(garbage_collection=True)
                        most_rows = len(part) // 2
                        logger.warning("%d rows do not fit in memory; going on with %d.", len(part), most_rows)
                    else:
                        answers += written
                yield answers

    def _generate(self, batch: list[Request]) -> list[Answer] | None:
        """The answers to a batch; `None` if several rows were too many for the memory."""
        try:
            return [self._cut(ids) for ids in self._write(batch)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise RuntimeError(
                    f"One prompt of {len(batch[0].prompt_ids)} tokens with `max_new_tokens="
                    f"{self._config.max_new_tokens}` does not fit in memory. What was written is kept; lower "
                    "`max_new_tokens`, shorten the prompts, or load the engine in a smaller dtype or on a larger "
                    "device."
                ) from error
        return None  # out of the handler, so that nothing holds on to the frames and their tensors

    def _write(self, batch: list[Request]) -> list[list[int]]:
        """The new ids of each row, whatever stands behind its first end of sequence."""
        length = max(len(request.prompt_ids) for request in batch)
        padding = [length - len(request.prompt_ids) for request in batch]
        pads = [[self._config.pad_token_id] * n for n in padding]
        input_ids = [pad + request.prompt_ids for pad, request in zip(pads, batch, strict=True)]
        mask = [[0] * n + [1] * (length - n) for n in padding]
        processors = []
        if self._warpers is not None:
            seeds = [request.seed for request in batch]
            processors = [*self._warpers, DrawToken(seeds, length, self._config.max_new_tokens)]
        output = self.model.generate(
            input_ids=torch.tensor(input_ids, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
            generation_config=self._config,
            logits_processor=LogitsProcessorList(processors),
        )
        return output[:, length:].tolist()

    def _cut(self, ids: list[int]) -> Answer:
        stop = next((position for position, token in enumerate(ids) if token in self._config.eos_token_id), None)
        return Answer(ids[:stop], "length" if stop is None else "stop")

    def _members(self) -> dict[str, PreTrainedModel | PeftModel]:
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return model.members if isinstance(model, StacksForCausalLM) else {"model": self.model}


def _hash_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()[:16]
