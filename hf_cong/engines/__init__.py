# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What writes completions: a transformers model, a vLLM engine, or a server behind a URL, all used in one way."""

import sys
from collections.abc import Callable
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from .base import Answer, Engine, Request
from .transformers_engine import TransformersEngine

__all__ = ["Answer", "Engine", "LazyEngine", "Request", "TransformersEngine", "as_engine"]


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


class LazyEngine:
    """
    An engine that is loaded when it is first called for, used several times, and then closed.

    Args:
        load (`Callable`): Returns what [`as_engine`] takes.
    """

    def __init__(self, load: Callable[[], Any]):
        self._load, self._engine = load, None

    def __call__(self) -> Engine:
        if self._engine is None:
            self._engine = as_engine(self._load())
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None
