# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A transformers model under continuous batching: a row that ends makes room, no row is padded.

`generate_batch` itself would not do: it has one random stream for all rows, it starts while prompts are still
arriving, so that what meets in a batch hangs on the timing of a thread, and it reports a failed prompt to the log.
"""

import torch
from transformers import ContinuousBatchingConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from ..sampling import draw, uniforms
from .base import Request
from .transformers_engine import TransformersEngine

_PAGE = 32  # tokens
_MOST_TOKENS = 2048  # in one step


class ContinuousEngine(TransformersEngine):
    """
    Overrides how a batch is written: the completions of a [`TransformersEngine`], in float32 the same tokens.

    It pays where completions differ in length. The batch size is what is written to the journal at a time; within it,
    rows come and go. A repetition penalty is refused: continuous batching keeps no track of a row's tokens.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.
    """

    batch_size = 256

    def prepare(self, tokenizer, prompt_ids, decoding) -> dict:
        if decoding.repetition_penalty != 1.0:
            raise ValueError(
                f"`repetition_penalty` must be 1.0 under continuous batching, got {decoding.repetition_penalty}. Pass "
                "the model itself as `engine`."
            )
        return super().prepare(tokenizer, prompt_ids, decoding)

    def _write(self, batch: list[Request]) -> list[list[int]]:
        lengths = [len(request.prompt_ids) + self._config.max_new_tokens for request in batch]
        config = ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=sum(length // _PAGE + 1 for length in lengths) + 1,  # else it takes most of the memory there is
            max_batch_tokens=_MOST_TOKENS,
            auto_switch_to_flash=False,  # which might be fetched from the Hub
            use_async_batching=False,  # which would draw a step late
        )
        manager = self.model.init_continuous_batching(
            generation_config=self._config, continuous_batching_config=config
        )
        if self._warpers is not None:
            processors = [*self._warpers, _Draw(batch, self._config.max_new_tokens)]
            manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList(processors))
            manager.logit_processor.tensors_required = 1
        for number, request in enumerate(batch):  # all, before the first step: the same steps every time
            manager.add_request(request.prompt_ids, request_id=str(number))
        manager.start()
        try:
            written = {}
            while len(written) < len(batch):
                result = manager.get_result(timeout=1)
                if result is not None:
                    if result.error is not None:
                        raise RuntimeError(f"Continuous batching failed: {result.error[:300]}")
                    written[int(result.request_id)] = result.generated_tokens
                elif not manager.is_running():
                    error = manager.background_thread_status.fatal_error  # said, since a full memory is told by it
                    raise RuntimeError(f"Continuous batching failed: {str(error)[:300]}") from error
        finally:
            manager.stop(hard_stop=True)
            manager.destroy()
        return [written[number] for number in range(len(batch))]


class _Draw(ContinuousBatchingLogitsProcessor):
    """What `DrawToken` is to `generate`: a row's uniform number travels with the row, wherever it is in the batch."""

    supported_kwargs: dict = {}  # noqa: RUF012
    ignored_kwargs = ()

    def __init__(self, batch: list[Request], max_new_tokens: int):
        self.uniforms = uniforms([request.seed for request in batch], max_new_tokens)  # (B, max_new_tokens)
        self.prompt_lengths = [len(request.prompt_ids) for request in batch]

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list) -> torch.Tensor:
        rows = [int(request.state.request_id) for request in requests_with_new_token]
        # A row that had to make room for others comes back with what it had written as its prompt.
        lengths = [len(r.state.initial_tokens) + r.state.generated_len() for r in requests_with_new_token]
        steps = [length - self.prompt_lengths[row] for row, length in zip(rows, lengths, strict=True)]
        return self.uniforms[rows, steps].view(torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return draw(scores, tensor_arg[: len(scores)].view(torch.float32))
