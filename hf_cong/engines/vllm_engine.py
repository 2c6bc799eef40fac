# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A `vllm.LLM` in this process. Imported only for one that exists, so vLLM stays optional."""

import itertools
from collections.abc import Iterator

import vllm
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from ..checkpoints import model_identity
from ..pair import StacksConfig
from ..sampling import Decoding
from .base import Answer, Engine, Request


class VllmEngine(Engine):
    """
    A vLLM engine. It schedules by itself, and gets batches together until they make 256 prompts; a batch is what goes
    to the journal at a time.

    The default sampling parameters that vLLM reads from the model's generation configuration are not used. Seeds are
    per prompt, but rounding follows what vLLM happens to batch, so below float32 a draw may tip between two runs.

    Args:
        llm (`vllm.LLM`):
            The engine. α, β and τ are fixed when it is made: `LLM(..., hf_overrides={"alpha": 0.5})`.
    """

    writer = "vllm"
    batch_size = 256

    def __init__(self, llm: vllm.LLM):
        self._llm, self._config = llm, llm.model_config

    def describe(self) -> dict:
        config = self._config
        settings = config.hf_config.settings if isinstance(config.hf_config, StacksConfig) else {}
        loaded = {"dtype": str(config.dtype), "quantization": config.quantization}
        where = {} if config.revision is None else {"revision": config.revision}
        return {
            "model": config.model,
            **{"alpha": None, "beta": None, "plausibility_threshold": None, **settings},
            **loaded,
            "vllm": vllm.__version__,
            "identity": {
                "vllm": model_identity(config.model, **where),
                **loaded,
                **settings,
                "eos_token_ids": self._eos_token_ids(),
            },
        }

    def prepare(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[list[int]], decoding: Decoding) -> dict:
        if PartialState().num_processes > 1:
            raise ValueError(
                f"`engine` is a vLLM engine in each of {PartialState().num_processes} processes. Run one process: "
                "vLLM spreads over devices by itself (`tensor_parallel_size`). Several engines serve as URLs."
            )
        needed, rows = max(len(tokenizer), max(map(max, prompt_ids)) + 1), self._config.get_vocab_size()
        if needed > rows:
            raise ValueError(
                f"`tokenizer` has {needed} tokens, and `engine` knows {rows}. Pass the engine's own tokenizer."
            )
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self._eos = sorted({*self._eos_token_ids(), *own})
        self._options = {
            "max_tokens": decoding.max_new_tokens,
            "repetition_penalty": float(decoding.repetition_penalty),
            "temperature": 0.0,
            "stop_token_ids": self._eos,
            "detokenize": False,
        }
        if decoding.do_sample:
            self._options |= {
                "temperature": float(decoding.temperature),
                "top_k": decoding.top_k,
                "top_p": float(decoding.top_p),
            }
        return {"eos_token_id": self._eos}

    @property
    def context_length(self) -> int:
        return self._config.max_model_len

    def complete(self, batches: list[list[Request]]) -> Iterator[list[Answer]]:
        together = []
        for number, batch in enumerate(batches, start=1):
            together.append(batch)
            if sum(map(len, together)) >= self.batch_size or number == len(batches):
                yield from self._write(together)
                together = []

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()  # the processes that hold the memory

    def _write(self, batches: list[list[Request]]) -> list[list[Answer]]:
        requests = [request for batch in batches for request in batch]
        outputs = self._llm.generate(
            [{"prompt_token_ids": request.prompt_ids} for request in requests],
            [vllm.SamplingParams(**self._options, seed=request.seed) for request in requests],
            use_tqdm=False,
        )
        answers = map(self._cut, outputs)
        return [list(itertools.islice(answers, len(batch))) for batch in batches]

    def _cut(self, output: vllm.RequestOutput) -> Answer:
        (written,) = output.outputs
        if written.finish_reason not in ("stop", "length"):
            raise RuntimeError(
                f"vLLM ended a completion by {written.finish_reason!r}, neither 'stop' nor 'length'. What was written "
                "before its batch is kept; see vLLM's log, and repeat the command."
            )
        ids = list(written.token_ids)
        return Answer(ids[:-1] if written.finish_reason == "stop" else ids, written.finish_reason)  # ends with the EOS

    def _eos_token_ids(self) -> list[int]:
        """As [`eos_token_ids`] of the model that vLLM has loaded."""
        eos = self._config.try_get_generation_config().get("eos_token_id")
        if eos is None:
            eos = self._config.hf_config.get_text_config().eos_token_id
        return [eos] if isinstance(eos, int) else list(eos or [])
