# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-Strong Search as a model of lm-eval: it writes, and has no likelihood."""

import json
import logging
from collections import Counter, defaultdict
from typing import NoReturn

import torch
from accelerate import PartialState
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm
from transformers import AutoTokenizer

from ...checkpoints import tokenizer_identity
from ...engines.named import check_has_reward, named_engine
from ...rewards import ImplicitReward
from ...search.batches import SearchSettings
from ...search.search import weak_to_strong_search
from .response_cache import use_own_table

logger = logging.getLogger(__name__)

# How a task wants text to be drawn. A search draws as it was told when it was made.
_DRAWING = ("do_sample", "temperature", "top_p", "top_k")


class _Messages(str):
    """Chat messages as JSON: lm-eval carries a prompt as one string, and every model has its own chat template."""


@register_model("cong_search")
class SearchLM(LM):
    """
    A model steered by the implicit reward of a weak pair, as a model of lm-evaluation-harness.

    It serves `generate_until`: each prompt is one [`weak_to_strong_search`]. A task's `until` and its number of tokens
    are the search's; how tokens are drawn is not the task's but part of the method, so `do_sample`, `temperature`,
    `top_p` and `top_k` of a task are set aside, which is logged. Repeats of a prompt take the following seeds. A
    prompt that does not fit is refused, never cut. Under `--apply_chat_template` each model reads the messages through
    its own template, so the models may be of different families.

    Args:
        pretrained (`str`):
            The model that samples: path, Hub id, or URL of an OpenAI-compatible server.
        policy (`str`):
            The weak model after alignment, a LoRA adapter, or a saved pair: path or Hub id.
        reference (`str`, *optional*):
            The weak model before alignment.
        tokenizer (`str`, *optional*):
            Tokenizer of a server's model, which chat messages need.
        revision, policy_revision, reference_revision (`str`, *optional*):
            Branches, tags or commits on the Hub. Default to the main branches.
        beam_width, successors_per_beam, chunk_length, temperature, top_k, top_p, seed (*optional*):
            See [`weak_to_strong_search`].
        max_gen_toks (`int`, *optional*, defaults to `256`):
            Most tokens of a completion where the task names no number.
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts that are searched together.
        max_batch_size (`int`, *optional*):
            Has no effect: a batch that does not fit in memory is searched in halves.
        device (`str`, *optional*):
            Device of all models. Without it, or where there is none such, they spread over what there is.
        parallelize (`bool`, *optional*, defaults to `False`):
            Whether to spread the models over all devices whatever `device` says.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code that comes with a model.

    Raises:
        ValueError: if the policy is no pair, or there are several processes.

    Source: [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262).
    """

    def __init__(
        self,
        pretrained: str,
        policy: str,
        reference: str | None = None,
        *,
        tokenizer: str | None = None,
        revision: str | None = None,
        policy_revision: str | None = None,
        reference_revision: str | None = None,
        beam_width: int = 4,
        successors_per_beam: int = 4,
        chunk_length: int | None = 5,
        temperature: float = 0.7,
        top_k: int = 50,
        top_p: float = 1.0,
        seed: int = 0,
        max_gen_toks: int = 256,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        device: str | None = None,
        parallelize: bool = False,
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ):
        super().__init__()
        if PartialState().num_processes > 1:
            raise ValueError(
                "A search runs in one process, and there are several. Start it without `accelerate launch`."
            )
        if not str(batch_size).isdecimal():
            raise ValueError(f"`batch_size` must be a whole number for a search, got {batch_size!r:.80}. Name one.")
        self.settings = {
            "beam_width": beam_width,
            "successors_per_beam": successors_per_beam,
            "chunk_length": chunk_length,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        SearchSettings(**self.settings)  # refuses what cannot be, before anything is loaded
        options = {"dtype": dtype, "trust_remote_code": bool(trust_remote_code)}
        placement = {} if parallelize or not _is_there(device) else {"device_map": {"": device}}
        revisions = {"policy": policy_revision, "reference": reference_revision}
        load, reward_id, weak_tokenizer = named_engine(policy, reference, revisions=revisions, **options)
        check_has_reward(policy, reward_id)
        if "://" in pretrained:
            self.model, model_id = pretrained, {"policy": pretrained}
            self.tokenizer = None if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer)
        elif tokenizer is not None:
            raise ValueError(f"`tokenizer` is for a model behind a URL; {pretrained!r:.80} has its own. Leave it out.")
        else:
            load_model, model_id, self.tokenizer = named_engine(pretrained, revisions={"policy": revision}, **options)
            self.model = load_model(**placement)
        self.reward = ImplicitReward(load(**placement), None, weak_tokenizer)
        self.max_gen_toks, self.batch_size = max_gen_toks, int(batch_size)
        self._identity = {"model": model_id, "reward": reward_id}
        self.members = {
            role: {"model": name, "revision": at, "identity": identity}
            for role, name, at, identity in (
                ("model", pretrained, revision, model_id["policy"]),
                ("policy", policy, policy_revision, reward_id["policy"]),
                ("reference", reference, reference_revision, reward_id.get("reference")),
            )
            if identity is not None  # a saved pair has its own reference
        }

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """
        The completion that a search finds for each request.

        Raises:
            ValueError: for generation settings that a search does not have, or a prompt that does not fit.
        """
        asked, groups = Counter(), defaultdict(list)
        for index, (prompt, gen_kwargs) in enumerate(request.args for request in requests):
            key = json.dumps(gen_kwargs, sort_keys=True)
            # A search takes a prompt once; asked again, it goes on to the next seed.
            groups[key, asked[prompt, key]].append(index)
            asked[prompt, key] += 1
        answers = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as progress:
            for (key, repeat), indices in groups.items():
                settings = self._read(json.loads(key), repeat)
                indices.sort(key=lambda index: -len(requests[index].args[0]))  # prompts of like length together
                for start in range(0, len(indices), self.batch_size):
                    batch = indices[start : start + self.batch_size]
                    found = self._search([requests[index].args[0] for index in batch], settings)
                    for index, answer in zip(batch, found, strict=True):
                        answers[index] = answer
                        self.cache_hook.add_partial("generate_until", requests[index].args, answer)
                    progress.update(len(batch))
        return answers

    def _read(self, gen_kwargs: dict, repeat: int) -> dict:
        """The settings of a search with what a task wants of it."""
        wanted = normalize_gen_kwargs(gen_kwargs, self.max_gen_toks)
        max_new_tokens, stop_strings = wanted.pop("max_gen_toks"), wanted.pop("until")
        drawing = {name: wanted.pop(name) for name in _DRAWING if name in wanted}
        if wanted:
            raise ValueError(
                f"A search has no generation settings {sorted(wanted)}. Take them out of the task, or out of "
                "`--gen_kwargs`."
            )
        logger.warning("A search draws tokens in its own way; the task's %s are set aside.", drawing)
        return {
            **self.settings,
            "max_new_tokens": max_new_tokens,
            "stop_strings": [stop for stop in stop_strings if stop],
            "seed": self.settings["seed"] + repeat,
        }

    def _search(self, prompts: list[str], settings: dict) -> list[str]:
        prompts = [json.loads(prompt) if isinstance(prompt, _Messages) else prompt for prompt in prompts]
        results = weak_to_strong_search(
            self.model, self.tokenizer, prompts, self.reward, batch_size=self.batch_size, **settings
        )
        return [result.completion for result in results]

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refused: a search has no likelihood."""
        raise NotImplementedError(
            f"A search writes text and has no likelihood, and {requests[0].task_name!r} asks for one. Choose tasks "
            "that generate, or evaluate the pair or the model alone (`--model cong`, `--model hf`)."
        )

    loglikelihood_rolling = loglikelihood

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """
        The messages, for each model to put through its own template.

        Raises:
            NotImplementedError: if the answer is begun in the task's words (`gen_prefix`).
        """
        if not add_generation_prompt:
            raise NotImplementedError(
                "The task begins the answer itself (`gen_prefix`), which a search over chat messages cannot go on "
                "with. Run it without `--apply_chat_template`."
            )
        return _Messages(json.dumps(chat_history))

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval caches prompts by: they are messages, of no tokenizer."""
        return "messages"

    def get_model_info(self) -> dict:
        """Facts for `results["config"]`: the settings of the search, and all members with their revisions."""
        return {**self.settings, "max_gen_toks": self.max_gen_toks, "members": self.members}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        tokenizer = None if self.tokenizer is None else tokenizer_identity(self.tokenizer)
        dtypes = [str(scorer.model.dtype) for scorer in self.reward.scorers]
        own = {**self._identity, **self.settings, "max_gen_toks": self.max_gen_toks}
        use_own_table(cache_hook, {**own, "tokenizer": tokenizer, "dtypes": dtypes})
        super().set_cache_hook(cache_hook)


def _is_there(device: str | None) -> bool:
    """lm-eval's command asks for `cuda:0` on every machine."""
    if device is None:
        return False
    kind = torch.device(device).type
    return kind == "cpu" or (torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == kind)
