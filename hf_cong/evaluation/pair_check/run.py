# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Is this pair any good? Asked before anything long: what its files say, a short run, a verdict with the reason."""

import math
from collections.abc import Callable
from pathlib import Path

import datasets
from peft import PeftConfig
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoints import commit_of, content_key
from ...compatibility import check_decoder_model, context_length, eos_token_ids
from ...engines import Request
from ...engines.named import named_engine
from ...engines.transformers_engine import is_out_of_memory
from ...functional import check_alpha
from ...journal import check_identity, read_manifest, write_manifest
from ...pair import ContrastivePairConfig, ContrastivePairForCausalLM, StacksConfig, StacksForCausalLM
from ...pair.configuration_stacks import check_one_family
from ...pair.modeling_stacks import is_adapter, load_tokenizer
from ...prompts import encode_prompt, read_prompts
from ...rewards import ImplicitReward
from ...rewards.likelihood import encode_completions, encode_prompts
from ...rewards.reward_accuracy import read_preferences, reward_accuracy
from ...sampling import row_seed
from ...timing import cache_bytes, weight_bytes
from . import rules
from .measures import compare_members, not_finite, short_run
from .report import Cost, Finding, PairReport

_MOST_ENCODED = 1000  # prompts of a large file that are looked at


def check_pair(
    policy: str,
    reference: str | None = None,
    *,
    prompts: datasets.Dataset | list | str | Path,
    preferences: datasets.Dataset | list | str | Path | None = None,
    output_dir: str | Path | None = None,
    alpha: float | None = None,
    plausibility_threshold: float | None = None,
    num_prompts: int = 16,
    max_new_tokens: int = 32,
    num_preferences: int = 128,
    planned_prompts: int | None = None,
    planned_max_new_tokens: int | None = None,
    batch_size: int = 8,
    dtype: str = "auto",
    seed: int = 0,
    chat_template_kwargs: dict | None = None,
    invalid_prompts: str = "raise",
) -> PairReport:
    """
    Looks at a weak pair before anything long is done with it, and ends with a verdict and its reasons.

    First what needs no weights: architecture, vocabulary, heads, chat template, context. Then, on a few of the
    prompts, what does: damaged weights, how far policy and reference differ on the policy's own samples, how often the
    contrast has a choice, whether the implicit reward agrees with preferences, and what a run costs here. What makes
    the rest meaningless ends the check there.

    A verdict of `"good"` says that nothing speaks against the pair, not that the contrast improves anything: that is
    what a sweep of α on held-out prompts tells.

    Args:
        policy (`str`): Path or Hub id of the model after alignment, of a LoRA adapter, or of a saved pair.
        reference (`str`, *optional*): Path or Hub id of the model before alignment.
        prompts (`datasets.Dataset`, `list`, `str` or `Path`):
            The prompts of the planned run: see [`read_prompts`]. `num_prompts` of them, evenly spread, are used.
        preferences (`datasets.Dataset`, `list`, `str` or `Path`, *optional*):
            Preferences that the pair should agree with: see [`read_preferences`]. Swapped members are told by nothing
            else.
        output_dir (`str` or `Path`, *optional*): Receives `pair_check.json`.
        alpha (`float`, *optional*): Weight kept on the policy. Defaults to a saved pair's own, else to 0.4.
        plausibility_threshold (`float`, *optional*): τ of the plausible set. Defaults to a saved pair's own, else to
            0.1.
        num_prompts (`int`, *optional*, defaults to `16`): Prompts to sample a completion for.
        max_new_tokens (`int`, *optional*, defaults to `32`): Longest of these completions, in tokens.
        num_preferences (`int`, *optional*, defaults to `128`): Most preferences to score, evenly spread.
        planned_prompts (`int`, *optional*): Prompts of the planned run. Defaults to all of `prompts`.
        planned_max_new_tokens (`int`, *optional*): Longest completion of the planned run. Defaults to 2048, or to what
            the context leaves.
        batch_size (`int`, *optional*, defaults to `8`): Prompts per batch.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the weights.
        seed (`int`, *optional*, defaults to `0`): Seed of the completions.
        chat_template_kwargs (`dict`, *optional*): Variables for the chat template.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`): `"drop"` leaves bad rows out.

    Returns:
        [`PairReport`]: findings, measurements and the verdict `"good"`, `"doubtful"` or `"unusable"`.

    Raises:
        OSError: if a checkpoint is not there, or is not in safetensors.
        ValueError: if `policy` is one model without a reference, a setting, a prompt or a preference is refused, or
            `output_dir` holds another check.

    Source: thresholds of the divergence are rules of thumb, which `rules.py` gives reasons for.
    """
    counts = {
        "num_prompts": num_prompts,
        "max_new_tokens": max_new_tokens,
        "num_preferences": num_preferences,
        "planned_prompts": planned_prompts,
        "planned_max_new_tokens": planned_max_new_tokens,
        "batch_size": batch_size,
    }
    for name, value in counts.items():
        planned = name.startswith("planned_") and value is None
        if not planned and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {repr(value)[:80]}.")
    rows, _ = read_prompts(prompts, invalid=invalid_prompts)
    if preferences is not None:
        preferences = list(zip(*read_preferences(preferences).values(), strict=True))
    _check_names(policy, reference)
    load, identity, tokenizer = named_engine(
        policy, reference, alpha=alpha, plausibility_threshold=plausibility_threshold, dtype=dtype
    )
    if "alpha" not in identity:
        raise ValueError(
            f"`policy` {policy!r:.80} is no pair. Pass the model before alignment as `reference`, or a LoRA adapter "
            "or a saved pair as `policy`."
        )
    formula = {name: identity[name] for name in ("alpha", "plausibility_threshold")}
    check_alpha(**formula)
    settings = {**formula, **counts, "planned_prompts": planned_prompts or len(rows), "dtype": dtype, "seed": seed}
    identity |= {
        **settings,
        "prompts": content_key(list(rows["prompt_id"])),
        "preferences": None if preferences is None else content_key(preferences),
    }
    path = None if output_dir is None else Path(output_dir) / "pair_check.json"
    if path is not None and path.exists():
        check_identity(identity, read_manifest(path)["identity"], path)

    commits = {role: commit_of(identity[role]) for role in ("policy", "reference") if role in identity}
    check = _Check(policy, reference, commits, tokenizer, formula, chat_template_kwargs)
    check.files(_spread(rows["prompt"][:], num_prompts))
    if not check.over:
        check.load(load, dtype, rows["prompt"][0])
    if not check.over:
        check.fit(_spread(rows, _MOST_ENCODED), seed, num_prompts, max_new_tokens, planned_max_new_tokens)
    if not check.over:
        check.run(max_new_tokens, batch_size, settings["planned_prompts"])
    if not check.over:
        check.score(preferences, num_preferences, batch_size)
    report = PairReport(
        policy, check.reference, settings, tuple(check.findings), check.agreement, check.accuracy, check.cost
    )
    if path is not None:
        write_manifest(path, {"identity": identity, **report.to_dict()})
    return report


class _Check:
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
        self.find(rules.architecture(*configs), decisive=True)
        self.find(rules.vocabulary(*tokenizers), decisive=True)
        self.find(rules.heads(*configs, len(self.tokenizer)), decisive=True)
        if not self.over:  # the ids of two vocabularies differ anyway
            self.find(rules.chat_template(*tokenizers, prompts, self.chat_template_kwargs), decisive=True)

    def load(self, load: Callable[[], StacksForCausalLM], dtype: str, prompt: str | list[dict]) -> None:
        """The members, and the pair where they can be one model."""
        defects: dict[str, list[str]] = {"policy": [], "reference": []}
        try:
            if self.two_checkpoints:
                for role, name in (("policy", self.policy), ("reference", self.reference)):
                    self.members[role], defects[role] = _load_member(name, role, dtype=dtype, **self.commits[role])
                if rules.refusal(check_one_family, "", **self.configs) is None:
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
        self.find(rules.weights(dtypes, defects), decisive=True)
        closing = "plain"
        if not isinstance(prompt, str):
            closing = rules.turn_end(self.tokenizer, prompt, self.chat_template_kwargs)
        ends = [eos_token_ids(model) for model in (self.pair or self.members["policy"], self.members["reference"])]
        self.find(rules.ends(self.tokenizer, *ends, closing))

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
        finding, self.planned_tokens = rules.context(limit, lengths, max_new_tokens, planned_max_new_tokens)
        self.find(finding, decisive=True)
        if not self.over:
            fitting = [request for request in encoded if len(request.prompt_ids) + max_new_tokens <= limit]
            self.requests = _spread(fitting, num_prompts)

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
                self.find(rules.divergence(self.agreement, self.formula["alpha"], width), decisive=True)
                if self.over:
                    return
                self.find(rules.contrast(self.agreement, **self.formula))
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
        self.find(rules.cost(self.cost))

    def score(self, preferences: list[tuple] | None, num_preferences: int, batch_size: int) -> None:
        """The implicit reward on preferences."""
        if preferences is None:
            text = "not measured without `preferences`; swapped members would not be noticed"
            self.find(Finding("skip", "reward accuracy", text))
            return
        members = (self.pair, None) if self.pair is not None else self.members.values()
        chosen = _spread(preferences, num_preferences)
        try:
            fitting = [row for row in chosen if self._fits(row)]
            reward = ImplicitReward(*members, self.tokenizer, chat_template_kwargs=self.chat_template_kwargs)
            with tqdm(total=len(fitting), desc="Scoring preferences", unit="preference") as progress:
                columns = [list(column) for column in zip(*fitting, strict=True)] or [[], [], []]
                self.accuracy = reward_accuracy(reward, *columns, batch_size=batch_size)
                progress.update(len(fitting))
        except ValueError as error:
            self.find(Finding("warn", "reward accuracy", f"could not be measured. {error}"))
            return
        self.find(rules.accuracy(self.accuracy, len(chosen) - len(fitting)))

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


def _check_names(policy: str, reference: str | None) -> None:
    """Refuses, more clearly than loading would, a reference that is an adapter and a policy without a tokenizer."""
    if reference is not None and is_adapter(reference, None):
        raise ValueError(
            f"`reference` is an adapter, {reference!r:.80}. Merge it into its base model and save that first."
        )
    if not is_adapter(policy, None) and load_tokenizer(policy) is None:
        AutoConfig.from_pretrained(policy)  # if there is no model either, it says so
        raise ValueError(f"`policy` {policy!r:.80} has no tokenizer beside it. Save the tokenizer of the model there.")


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


def _spread(rows: datasets.Dataset | list, count: int) -> datasets.Dataset | list:
    """At most `count` of the rows, evenly spread, so that those of a sorted file are of all kinds."""
    if len(rows) <= count:
        return rows
    indices = [index * len(rows) // count for index in range(count)]
    return rows.select(indices) if isinstance(rows, datasets.Dataset) else [rows[index] for index in indices]
