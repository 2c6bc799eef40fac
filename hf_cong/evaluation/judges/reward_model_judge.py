# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A reward model as a judge: the completion with the higher score is better."""

import contextlib
import logging
import math
from collections.abc import Iterator

import jinja2
import torch
from accelerate import PartialState
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file

from ...checkpoints import content_key, model_identity, tokenizer_identity
from ...compatibility import context_length
from ...rewards.likelihood import evaluating
from .answers import question_text
from .judge import Judge, check_texts

logger = logging.getLogger(__name__)


class RewardModelJudge(Judge):
    """
    A reward model: any sequence classifier with one label. The completion with the higher score is better.

    Prompt and completion go through the chat template as a conversation; plain text is a message of the user. A
    tokenizer without a template must be one of sentence pairs, such as DeBERTa's. Each text is scored once and alone,
    so the order of two completions plays no part, and in float32 its score does not depend on the batch. A text that
    is longer than the model's context is not cut: it has no score, and a warning says how many have none.

    A head of one's own, such as ArmoRM's, is code that comes with the checkpoint. It runs only with
    `trust_remote_code=True`, and must give one score for a text in its `logits`.

    Args:
        model (`PreTrainedModel`, `PeftModel` or `str`):
            The model; or its path or Hub id, which is loaded when it is first needed.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Its tokenizer; that of a path or id is found there.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the weights of a path or id.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code that comes with a path or id.
        batch_size (`int`, *optional*, defaults to `8`):
            Texts per forward; texts of like length share one.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template.

    Raises:
        TypeError: if a loaded model comes without its tokenizer.
        ValueError: if the model does not have one label, is an adapter that was not merged, or brings code that is
            not trusted.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel | str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        batch_size: int = 8,
        chat_template_kwargs: dict | None = None,
    ):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if isinstance(model, str):
            self.name = model
            self._check_named(model, trust_remote_code)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
        else:
            self.name = model.config.name_or_path or type(model).__name__
            _check_labels(self.name, model.config.num_labels)
            if tokenizer is None:
                raise TypeError("`tokenizer` is None, and a loaded model needs its own.")
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.chat_template_kwargs = chat_template_kwargs
        self._model, self._init = model, {"dtype": dtype, "trust_remote_code": trust_remote_code}
        self.identity = {
            "reward_model": model_identity(model),
            "tokenizer": tokenizer_identity(tokenizer),
            "chat_template_kwargs": chat_template_kwargs,
            "dtype": dtype if isinstance(model, str) else str(model.dtype),
        }

    def verdicts(self, prompts: list, first: list[str], second: list[str]) -> list[dict]:
        """
        See [`Judge.verdicts`]; with the `scores` of both. Equal scores, and so equal completions, are a tie. Where one
        has no score there is no verdict.
        """
        check_texts(prompts, first=first, second=second)
        scores = self.score([*prompts, *prompts], [*first, *second])
        pairs = zip(scores[: len(prompts)], scores[len(prompts) :], strict=True)
        return [
            {"share": None if None in (a, b) else 0.5 + 0.5 * ((a > b) - (a < b)), "scores": [a, b]} for a, b in pairs
        ]

    def score(self, prompts: list, completions: list[str]) -> list[float | None]:
        """
        The model's score of each completion of its prompt.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): Plain text, or chat messages.
            completions (`list[str]`): The completions.

        Returns:
            `list[float]`: in the model's own unit, more is better; `None` for a text that is longer than its context.

        Raises:
            ValueError: if the lists differ in length, the tokenizer has no way to write a row, or the model does not
                give one number for a text.
        """
        check_texts(prompts, completions=completions)
        rows = list(zip(prompts, completions, strict=True))
        keys = [content_key(prompt, completion) for prompt, completion in rows]
        left = {key: index for index, key in enumerate(keys) if key not in self._answers}
        if left:
            self._score({key: (rows[index], self._encode(*rows[index])) for key, index in left.items()})
        return [self._answers[key]["score"] for key in keys]

    @staticmethod
    def _check_named(name: str, trust_remote_code: bool) -> None:
        if find_adapter_config_file(name) is not None:
            raise ValueError(
                f"`model` {name!r:.80} is an adapter. Merge it into its base and save that, or pass the loaded model."
            )
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        if "AutoModelForSequenceClassification" not in (config.to_dict().get("auto_map") or {}):
            _check_labels(name, config.num_labels)
        elif not trust_remote_code:  # without its own head, transformers would build another with random weights
            raise ValueError(
                f"`model` {name!r:.80} brings a head of its own, which is code that runs on your machine. Read it, "
                "then pass `trust_remote_code=True` (`--trust_remote_code` by hand); or use a model without one."
            )

    def _load(self) -> PreTrainedModel:
        if isinstance(self._model, str):
            state = PartialState(cpu=not torch.accelerator.is_available())
            device = "auto" if state.num_processes == 1 else state.device
            try:
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    self.name, **self._init, device_map=device, use_safetensors=True, output_loading_info=True
                )
            except ImportError as error:  # such code is often older than transformers
                raise ImportError(
                    f"`model` {self.name!r:.80} cannot be loaded here: {error}. If that is in code of its own, use a "
                    "copy whose code fits the transformers that is installed."
                ) from error
            if missing := sorted(info["missing_keys"]):
                raise ValueError(
                    f"`model` {self.name!r:.80} lacks the weights {', '.join(missing)[:200]}, which would be random: "
                    "it is no reward model. Pass one that was trained as a sequence classifier."
                )
            self._model = model
        return self._model

    def _encode(self, prompt: str | list[dict], completion: str) -> dict[str, list[int]]:
        if self.tokenizer.chat_template is None:
            question = question_text(prompt)
            if question is None or self.tokenizer.sep_token is None:
                lack = "way to write a pair of texts" if question else f"place for {repr(prompt)[:80]}"
                raise ValueError(
                    f"The tokenizer of {self.name!r:.80} has no chat template and no {lack}. Pass `tokenizer` with "
                    "the `chat_template` that the reward model was trained with."
                )
            pair = self.tokenizer(question, completion)
            return {name: pair[name] for name in ("input_ids", "token_type_ids") if name in pair}
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            ids = self.tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": completion}],
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,  # a special token typed in a completion stays text
                **(self.chat_template_kwargs or {}),
            )
        except jinja2.TemplateError as error:
            raise ValueError(
                f"The chat template of {self.name!r:.80} refuses the prompt {repr(prompt)[:80]}: {error}. Change its "
                "roles, or judge by another model."
            ) from error
        return {"input_ids": ids}

    def _score(self, texts: dict[str, tuple[tuple, dict]]) -> None:
        """Scores texts by their keys, each a row and its encoding, the longest first, and keeps every batch."""
        model = self._load()
        limit = context_length(model) or math.inf
        if self.tokenizer.chat_template is None:  # some encoders use up positions of their own, and only it knows
            limit = min(limit, self.tokenizer.model_max_length)
        lengths = {key: len(text["input_ids"]) for key, (_, text) in texts.items()}
        if longer := [key for key in texts if lengths[key] > limit]:
            logger.warning(
                "%d of %d texts are longer than the context of %s, %d tokens, and get no score.",
                *(len(longer), len(texts), self.name, limit),
            )
            self._keep([{"request": key, "score": None} for key in longer])
        ordered = sorted((key for key in texts if lengths[key] <= limit), key=lambda key: -lengths[key])
        with tqdm(total=len(ordered), desc=f"Scoring by {self.name}", unit="text") as progress:
            for start in range(0, len(ordered), self.batch_size):
                batch = ordered[start : start + self.batch_size]
                scores = _scores(model, [texts[key][1] for key in batch])
                for key, score in zip(batch, scores, strict=True):
                    if not math.isfinite(score):
                        prompt, completion = texts[key][0]
                        raise ValueError(
                            f"The completion {completion[:80]!r} of the prompt {repr(prompt)[:80]} has the score "
                            f"{score}. Load the reward model in bfloat16 or float32, not float16, and look for "
                            "damaged weights."
                        )
                self._keep([{"request": key, "score": score} for key, score in zip(batch, scores, strict=True)])
                progress.update(len(batch))


@torch.no_grad()
def _scores(model: PreTrainedModel | PeftModel, texts: list[dict[str, list[int]]]) -> list[float]:
    """Scores of a batch. On the right, so that every token keeps its position, and with the model's own padding."""
    config = model.config.get_text_config()
    pad = config.pad_token_id
    if pad is None or pad not in range(config.vocab_size):
        # Any id will do that no text ends with: the score is read at the last other one.
        pad = min(set(range(len(texts) + 1)) - {text["input_ids"][-1] for text in texts})
    inputs = {name: _padded([text[name] for text in texts], 0 if name != "input_ids" else pad) for name in texts[0]}
    inputs["attention_mask"] = _padded([[1] * len(text["input_ids"]) for text in texts], 0)
    with evaluating(model), _padding_token(config, pad):
        logits = model(**{name: rows.to(model.device) for name, rows in inputs.items()}).logits
    if logits.numel() != len(texts):
        raise ValueError(
            f"The reward model gives logits of the shape {tuple(logits.shape)} for {len(texts)} texts; it must give "
            "one score for each. Pass a model with one label."
        )
    return logits.flatten().float().tolist()


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


@contextlib.contextmanager
def _padding_token(config, token: int) -> Iterator[None]:
    before, config.pad_token_id = config.pad_token_id, token
    try:
        yield
    finally:
        config.pad_token_id = before


def _check_labels(name: str, labels: int) -> None:
    if labels != 1:
        raise ValueError(
            f"`model` {name!r:.80} has {labels} labels; a reward model has one (`num_labels=1`), its score. Pass a "
            "reward model."
        )
