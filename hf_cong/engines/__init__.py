# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What writes completions: a transformers model, a vLLM engine, or a server behind a URL, all used in one way."""

import sys

from peft import PeftModel
from transformers import PreTrainedModel

from .base import Answer, Engine, Request
from .transformers_engine import TransformersEngine

__all__ = ["Answer", "Engine", "Request", "TransformersEngine", "as_engine"]


def as_engine(engine: "PreTrainedModel | PeftModel | vllm.LLM | str | Engine") -> Engine:  # noqa: F821
    """
    The engine that a user means.

    Args:
        engine (`PreTrainedModel`, `PeftModel`, `vllm.LLM`, `str` or [`Engine`]): A model, an engine, or a URL.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is an encoder-decoder, or a URL with a password or a query.
        ImportError: if it is a URL and the package openai is not installed.
    """
    if isinstance(engine, Engine):
        return engine
    if isinstance(engine, PreTrainedModel | PeftModel):
        return TransformersEngine(engine)
    if isinstance(engine, str) and "://" in engine:
        from .server_engine import ServerEngine

        return ServerEngine(engine)
    vllm = sys.modules.get("vllm.entrypoints.llm")  # whoever holds an `LLM` has imported it
    if vllm is not None and isinstance(engine, vllm.LLM):
        from .vllm_engine import VllmEngine

        return VllmEngine(engine)
    raise TypeError(
        f"`engine` is {repr(engine)[:80]} ({type(engine).__name__}); it must be a loaded model, or a function without "
        "arguments that returns one, a `vllm.LLM`, or the URL of a server such as 'http://localhost:8000/v1'. Load a "
        "model: `AutoModelForCausalLM.from_pretrained(...)`."
    )
