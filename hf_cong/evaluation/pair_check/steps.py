# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The steps of a pair check, from what its files say to preferences: each runs what it must, and adds its findings."""

import math
from collections.abc import Callable

import datasets
from peft import PeftConfig
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ...compatibility import check_decoder_model, context_length, eos_token_ids
from ...engines import Request
from ...engines.transformers_engine import is_out_of_memory
from ...pair import ContrastivePairConfig, ContrastivePairForCausalLM, StacksConfig, StacksForCausalLM
from ...pair.configuration_stacks import check_one_family
from ...pair.modeling_stacks import is_adapter, load_tokenizer
from ...prompts import encode_prompt
from ...rewards import ImplicitReward
from ...rewards.likelihood import encode_completions, encode_prompts
from ...rewards.reward_accuracy import reward_accuracy
from ...sampling import row_seed
from ...timing import cache_bytes, weight_bytes
from . import file_rules, run_rules
from .measures import compare_members, not_finite, short_run
from .report import Cost, Finding


class PairCheck:
    """
    A check under way: what was found so far, and whether that makes the rest meaningless (`over`).

    Its steps stand here in the order in which they are taken.

    Args:
        policy, reference, chat_template_kwargs: See [`check_pair`].
        commits (`dict[str, dict]`): Revisions on the Hub that are checked, by role, as keywords.
        tokenizer (`PreTrainedTokenizerBase`): That of the policy, or of the saved pair.
        formula (`dict`): α and τ.
    """

    def __init__(
        self,
        policy: str,
        reference: str | None,
        commits: dict[str, dict],
        tokenizer: PreTrainedTokenizerBase,
        formula: dict[str, float],
        chat_template_kwargs: dict | None,
    ):
        self.policy, self.reference, self.commits, self.formula = policy, reference, commits, formula
        self.tokenizer, self.chat_template_kwargs = tokenizer, chat_template_kwargs
        self.findings: list[Finding] = []
        self.over = False
        self.pair = self.agreement = self.accuracy = self.cost = None
        self.members: dict[str, PreTrainedModel] = {}

        of_policy = commits["policy"]
        config = None if is_adapter(policy, of_policy) else AutoConfig.from_pretrained(policy, **of_policy)
        self.two_checkpoints = config is not None and not isinstance(config, StacksConfig)
        if isinstance(config, StacksConfig):
            self.reference, self.reference_tokenizer = policy, tokenizer
            before = config.reference_config
            after = config.policy_config if isinstance(config, ContrastivePairConfig) else before
        else:
            self.reference = reference or PeftConfig.from_pretrained(policy, **of_policy).base_model_name_or_path
            self.reference_tokenizer = load_tokenizer(self.reference, **commits["reference"])
            before = AutoConfig.from_pretrained(self.reference, **commits["reference"])
            after = config or before
        self.configs = {"policy": after, "reference": before}

    def find(self, finding: Finding, *, decisive: bool = False) -> None:
        """Adds a finding. With one that failed and is decisive, the check is over."""
        self.findings.append(finding)
        self.over = self.over or (decisive and finding.level == "fail")

    def files(self, prompts: list) -> None:
        """What needs no weights."""
        configs, tokenizers = self.configs.values(), (self.tokenizer, self.reference_tokenizer)
        self.find(file_rules.architecture(*configs), decisive=True)
        self.find(file_rules.vocabulary(*tokenizers), decisive=True)
        self.find(file_rules.heads(*configs, len(self.tokenizer)), decisive=True)
        if not self.over:  # the ids of two vocabularies differ anyway
            self.find(file_rules.chat_template(*tokenizers, prompts, self.chat_template_kwargs), decisive=True)

    def load(self, load: Callable[[], StacksForCausalLM], dtype: str, prompt: str | list[dict]) -> None:
        """The members, and the pair where they can be one model."""
        defects: dict[str, list[str]] = {"policy": [], "reference": []}
        try:
            if self.two_checkpoints:
                for role, name in (("policy", self.policy), ("reference", self.reference)):
                    self.members[role], defects[role] = _load_member(name, role, dtype=dtype, **self.commits[role])
                if file_rules.refusal(check_one_family, "", **self.configs) is None:
                    self.pair = ContrastivePairForCausalLM.from_pair(**self.members, **self.formula)
            else:
                self.pair = load()
                self.members = dict(self.pair.members)
        except SafetensorError as error:
            role = "reference" if self.members else "policy"
            text = f"a file of weights of `{role}` is damaged ({error}). Download or save it again."
            self.find(Finding("fail", "weights", text), decisive=True)
            return
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            text = (
                f"those of `policy` do not fit its configuration, or its base ({' '.join(str(error).split())[:200]})"
            )
            self.find(Finding("fail", "weights", f"{text}. Take the checkpoint from its source."), decisive=True)
            return
        except ValueError as error:
            self.find(Finding("fail", "loading", str(error)), decisive=True)
            return
        defects = {role: names + not_finite(self.members[role]) for role, names in defects.items()}
        dtypes = {role: str(model.dtype).removeprefix("torch.") for role, model in self.members.items()}
        self.find(run_rules.weights(dtypes, defects), decisive=True)
        closing = "plain"
        if not isinstance(prompt, str):
            closing = file_rules.turn_end(self.tokenizer, prompt, self.chat_template_kwargs)
        ends = [eos_token_ids(model) for model in (self.pair or self.members["policy"], self.members["reference"])]
        self.find(file_rules.ends(self.tokenizer, *ends, closing))

    def fit(
        self,
        rows: datasets.Dataset,
        seed: int,
        num_prompts: int,
        max_new_tokens: int,
        planned_max_new_tokens: int | None,
    ) -> None:
        """The prompts that leave room for a completion."""
        limit = self._context()
        encoded = [
            Request(
                encode_prompt(self.tokenizer, row["prompt"], chat_template_kwargs=self.chat_template_kwargs),
                row_seed(seed, row["prompt_id"]),
            )
            for row in rows
        ]
        lengths = [len(request.prompt_ids) for request in encoded]
        finding, self.planned_tokens = file_rules.context(limit, lengths, max_new_tokens, planned_max_new_tokens)
        self.find(finding, decisive=True)
        if not self.over:
            fitting = [request for request in encoded if len(request.prompt_ids) + max_new_tokens <= limit]
            self.requests = spread(fitting, num_prompts)

    def run(self, max_new_tokens: int, batch_size: int, planned_prompts: int) -> None:
        """A short run of the policy, both members on what it wrote, and a short run of the pair."""
        width = min(config.get_text_config().vocab_size for config in self.configs.values())
        settings = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        with tqdm(total=3 * len(self.requests), unit="prompt") as progress:
            settings["progress"] = progress
            try:
                progress.set_description("The policy writes")
                rows, finished, rate = short_run(self.members["policy"], self.tokenizer, self.requests, **settings)
                progress.set_description("Policy against reference")
                options = {"finished": finished, "batch_size": batch_size, "progress": progress}
                self.agreement = compare_members(**self.members, rows=rows, **self.formula, **options)
                self.find(run_rules.divergence(self.agreement, self.formula["alpha"], width), decisive=True)
                if self.over:
                    return
                self.find(run_rules.contrast(self.agreement, **self.formula))
                progress.set_description("The pair writes")
                other = self.pair or self.members["reference"]
                _, _, other_rate = short_run(other, self.tokenizer, self.requests, **settings)
            except ValueError as error:
                self.find(Finding("fail", "scores", str(error)), decisive=True)
                return
        # A processor runs both members one after the other.
        pair_rate = other_rate if self.pair is not None else 1 / (1 / rate + 1 / other_rate)
        members = tuple(self.members.values())
        self.cost = Cost(
            device=str(members[0].device),
            batch_size=batch_size,
            policy_tokens_per_second=rate,
            pair_tokens_per_second=pair_rate,
            pair_measured=self.pair is not None,
            weight_bytes=weight_bytes(members),
            cache_bytes_per_token=cache_bytes(members, 1, 1),
            planned_prompts=planned_prompts,
            planned_max_new_tokens=self.planned_tokens,
            hours=planned_prompts * self.planned_tokens / pair_rate / 3600,
        )
        self.find(run_rules.cost(self.cost))

    def score(self, preferences: list[tuple] | None, num_preferences: int, batch_size: int) -> None:
        """The implicit reward on preferences."""
        if preferences is None:
            text = "not measured without `preferences`; swapped members would not be noticed"
            self.find(Finding("skip", "reward accuracy", text))
            return
        members = (self.pair, None) if self.pair is not None else self.members.values()
        chosen = spread(preferences, num_preferences)
        try:
            fitting = [row for row in chosen if self._fits(row)]
            reward = ImplicitReward(*members, self.tokenizer, chat_template_kwargs=self.chat_template_kwargs)
            columns = [list(column) for column in zip(*fitting, strict=True)] or [[], [], []]
            self.accuracy = reward_accuracy(reward, *columns, batch_size=batch_size)
        except ValueError as error:
            self.find(Finding("warn", "reward accuracy", f"could not be measured. {error}"))
            return
        self.find(run_rules.accuracy(self.accuracy, len(chosen) - len(fitting)))

    def _context(self) -> float:
        """The shorter context of both members, infinite where no configuration states one."""
        limits = [context_length(model) for model in self.members.values()]
        return min(limit for limit in (*limits, math.inf) if limit is not None)

    def _fits(self, preference: tuple) -> bool:
        """Whether a prompt with either of its completions and an end fits in the context."""
        prompt, *completions = preference
        prompts = [prompt] * 2
        prompt_ids = encode_prompts(self.tokenizer, prompts, self.chat_template_kwargs)
        ids = encode_completions(self.tokenizer, prompts, prompt_ids, completions)
        return len(prompt_ids[0]) + max(map(len, ids)) < self._context()


def _load_member(name: str, role: str, **init_kwargs) -> tuple[PreTrainedModel, list[str]]:
    """A checkpoint, and the weights that it lacks or has in another shape, which transformers fills at random."""
    model, info = AutoModelForCausalLM.from_pretrained(
        name,
        device_map="auto",
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **init_kwargs,
    )
    check_decoder_model(model, role)
    return model, sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def spread(rows: datasets.Dataset | list, count: int) -> datasets.Dataset | list:
    """At most `count` of the rows, evenly spread, so that those of a sorted file are of all kinds."""
    if len(rows) <= count:
        return rows
    indices = [index * len(rows) // count for index in range(count)]
    return rows.select(indices) if isinstance(rows, datasets.Dataset) else [rows[index] for index in indices]
