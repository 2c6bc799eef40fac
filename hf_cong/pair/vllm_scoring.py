# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Given text is scored without the plausible set in vLLM too.

vLLM asks a model for logits by one method, `compute_logits`, and does not say whether it samples from them or looks up
tokens of the prompt in them (`prompt_logprobs`). A token that is given may be implausible, and its likelihood is not
zero. So where a model of ours is loaded, vLLM's own methods that score prompts are wrapped: as they run, they say so.
"""

import functools
import logging
from collections.abc import Callable
from contextvars import ContextVar

logger = logging.getLogger(__name__)

_scoring = ContextVar("scoring", default=False)
_wrapped: set[Callable] = set()


def is_scoring() -> bool:
    """Whether logits are asked for to look up given tokens, and not to sample."""
    return _scoring.get()


def announce_scoring():
    """Wraps the methods of this process that score prompts, once."""
    try:
        from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        # The runner of vLLM, and the one that is to take its place.
        _announce(GPUModelRunner, "_get_prompt_logprobs_dict")
        _announce(PromptLogprobsWorker, "compute_prompt_logprobs")
        _announce(PromptLogprobsWorker, "compute_prompt_token_id_logprobs")
    except (ImportError, AttributeError) as error:
        logger.warning(
            "This version of vLLM scores prompts by methods that hf_cong does not know (%s), so `prompt_logprobs` are "
            "those of the plausible set, and tokens outside it count as impossible. To score given text, start the "
            "engine with `plausibility_threshold` 0.",
            error,
        )


def _announce(owner: type, name: str):
    method = getattr(owner, name)
    if method in _wrapped:
        return

    @functools.wraps(method)
    def scoring(*args, **kwargs):
        token = _scoring.set(True)
        try:
            return method(*args, **kwargs)
        finally:
            _scoring.reset(token)

    _wrapped.add(scoring)
    setattr(owner, name, scoring)
