# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The judge that a name stands for."""

from .judge import Judge
from .reward_model_judge import RewardModelJudge


def named_judge(
    name: str,
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    batch_size: int = 8,
    max_new_tokens: int = 1024,
    concurrency: int = 16,
) -> Judge:
    """
    The judge of a name: a [`RewardModelJudge`] of a path or Hub id, an [`EndpointJudge`] of a URL.

    The arguments are theirs; each takes those it knows.
    """
    if "://" in name:
        from .endpoint_judge import EndpointJudge

        return EndpointJudge(name, max_new_tokens=max_new_tokens, concurrency=concurrency)
    return RewardModelJudge(name, dtype=dtype, trust_remote_code=trust_remote_code, batch_size=batch_size)
