# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the commands about a weak pair itself."""

from dataclasses import dataclass, field


@dataclass
class CheckPairArguments:
    """
    Arguments of `hf-cong check-pair`: is this weak pair any good?

    Args:
        policy (`str`): The model after alignment: path or Hub id. It may be a LoRA adapter, whose base then is the
            reference, or a saved pair. On the command line it and the reference may also stand first, without `--`.
        prompts (`str`): The prompts of the planned run: a `.jsonl` or `.parquet` file, or the id of a dataset on the
            Hub, with a column `prompt`.
        reference (`str`, *optional*): The model before alignment.
        preferences (`str`, *optional*): Such a source with the columns `prompt`, `chosen` and `rejected`, to measure
            the reward accuracy on.
        output_dir (`str`, *optional*): Where `pair_check.json` goes.
        alpha (`float`, *optional*): Weight kept on the policy. Defaults to a saved pair's own, else to 0.4.
        plausibility_threshold (`float`, *optional*): τ of the plausible set. Defaults to a saved pair's own, else to
            0.1.
        num_prompts (`int`, *optional*, defaults to `16`): Prompts to sample a completion for.
        max_new_tokens (`int`, *optional*, defaults to `32`): Longest of these completions, in tokens.
        num_preferences (`int`, *optional*, defaults to `128`): Most preferences to score.
        planned_prompts (`int`, *optional*): Prompts of the planned run; all of `prompts` by default.
        planned_max_new_tokens (`int`, *optional*): Longest completion of the planned run; 2048 by default, or what the
            context leaves.
        batch_size (`int`, *optional*, defaults to `8`): Prompts per batch.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the weights.
        seed (`int`, *optional*, defaults to `0`): Seed of the completions.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`): `"drop"` leaves bad rows out and counts them.
    """

    policy: str = field(
        metadata={
            "help": "Model after alignment, LoRA adapter or saved pair: path or Hub id. It and the reference may "
            "stand first, without their flags."
        }
    )
    prompts: str = field(metadata={"help": "JSONL or Parquet file, or Hub dataset id, with a column `prompt`."})
    reference: str | None = field(default=None, metadata={"help": "Model before alignment: path or Hub id."})
    preferences: str | None = field(
        default=None, metadata={"help": "Prompts with chosen and rejected, to measure the pair's accuracy on."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Directory of pair_check.json."})
    alpha: float | None = field(default=None, metadata={"help": "Weight in [0, 1] kept on the policy (0.4)."})
    plausibility_threshold: float | None = field(
        default=None, metadata={"help": "Plausible: p >= threshold * max p (0.1)."}
    )
    num_prompts: int = field(default=16, metadata={"help": "Prompts to sample a completion for."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest of these completions, in tokens."})
    num_preferences: int = field(default=128, metadata={"help": "Most preferences to score."})
    planned_prompts: int | None = field(default=None, metadata={"help": "Prompts of the planned run (all)."})
    planned_max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest completion of the planned run (2048, or what fits)."}
    )
    batch_size: int = field(default=8, metadata={"help": "Prompts per batch."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the completions."})
    invalid_prompts: str = field(
        default="raise", metadata={"help": "raise, or drop and count bad prompts.", "choices": ["raise", "drop"]}
    )


@dataclass
class SweepArguments:
    """
    Arguments of `hf-cong sweep`: which α for this pair?

    Args:
        policy (`str`): The model after alignment: path or Hub id. It may be a LoRA adapter, whose base then is the
            reference, or a saved pair.
        reference (`str`, *optional*): The model before alignment.
        prompts (`str`): A `.jsonl` or `.parquet` file, or the id of a dataset on the Hub, with a column `prompt`.
        output_dir (`str`): Where completions, tables and pictures go. The same command resumes there.
        sandbox_dir (`str`, *optional*): Instead of the first three: where `hf-cong demo` has built the sandbox's
            world, or where it is to be built. Its gold reward judges, its strong model measures perplexity, and
            `output_dir` defaults to `sweep` in it.
        alphas (`list[float]`, *optional*, defaults to `[0.3, 0.4, 0.5, 0.7, 1.0]`): Weights kept on the policy; 1 is
            the policy alone, which differences are to.
        plausibility_thresholds (`list[float]`, *optional*, defaults to `[0.1]`): τ of the plausible set.
        temperatures (`list[float]`, *optional*): Temperatures that are the same for every α. With neither these nor
            the next, 0.8 is taken both ways.
        temperatures_times_alpha (`list[float]`, *optional*): Temperatures that are multiplied by α.
        reward_model (`str`, *optional*): A sequence classifier that judges, path or Hub id: what is recommended
            follows it.
        perplexity_model (`str`, *optional*): Path or Hub id of the model under which perplexity is measured. Defaults
            to the reference.
        num_prompts (`int`, *optional*): How many of the prompts to take; all by default, 300 in the sandbox.
        max_new_tokens (`int`, *optional*): Longest completion, in tokens: 512 by default, 48 in the sandbox.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus.
        top_k (`int`, *optional*, defaults to `0`): Top-k; 0 turns it off.
        batch_size (`int`, *optional*): Prompts per batch: 8 by default, 100 in the sandbox.
        seed (`int`, *optional*, defaults to `0`): Seed; each prompt has its own stream, the same at every setting.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the pair's and the reward model's weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether to run a head that comes as code with the
            reward model. On the command line only.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`): `"drop"` leaves bad rows out and counts them.
    """

    policy: str | None = field(
        default=None, metadata={"help": "Model after alignment, LoRA adapter or saved pair: path or Hub id."}
    )
    reference: str | None = field(default=None, metadata={"help": "Model before alignment: path or Hub id."})
    prompts: str | None = field(
        default=None, metadata={"help": "JSONL or Parquet file, or Hub dataset id, with a column `prompt`."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Directory of completions, tables and pictures."})
    sandbox_dir: str | None = field(
        default=None, metadata={"help": "Sandbox to sweep instead of a pair on prompts: its directory."}
    )
    alphas: list[float] = field(
        default_factory=lambda: [0.3, 0.4, 0.5, 0.7, 1.0], metadata={"help": "Weights in [0, 1] kept on the policy."}
    )
    plausibility_thresholds: list[float] = field(
        default_factory=lambda: [0.1], metadata={"help": "Plausible: p >= threshold * max p."}
    )
    temperatures: list[float] | None = field(default=None, metadata={"help": "Temperatures of every alpha."})
    temperatures_times_alpha: list[float] | None = field(
        default=None, metadata={"help": "Temperatures to be multiplied by alpha."}
    )
    reward_model: str | None = field(default=None, metadata={"help": "Sequence classifier that judges: path or id."})
    perplexity_model: str | None = field(default=None, metadata={"help": "Model of the perplexity (the reference)."})
    num_prompts: int | None = field(default=None, metadata={"help": "How many of the prompts to take (all)."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest completion, in tokens (512)."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus."})
    top_k: int = field(default=0, metadata={"help": "Top-k; 0 turns it off."})
    batch_size: int | None = field(default=None, metadata={"help": "Prompts per batch (8)."})
    seed: int = field(default=0, metadata={"help": "Seed of the run; each prompt has its own stream."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run a head that comes as code; by hand only."})
    invalid_prompts: str = field(
        default="raise", metadata={"help": "raise, or drop and count bad prompts.", "choices": ["raise", "drop"]}
    )


@dataclass
class CompressArguments:
    """
    Arguments of `hf-cong compress`: two full checkpoints to one LoRA pair.

    Args:
        policy (`str`): The model after alignment: path or Hub id.
        reference (`str`): The model before alignment: path or Hub id.
        output_dir (`str`): Where the pair and the report go. The same command resumes there.
        rank (`int`, *optional*, defaults to `16`): Rank of the adapter that is written.
        ranks (`list[int]`, *optional*): Ranks to measure; 4, 8, 16, 32, 64 by default.
        prompts (`str`, *optional*): A `.jsonl` or `.parquet` file, or the id of a dataset on the Hub, with a column
            `prompt`. Without it only weights are measured, and neither model is loaded.
        alpha (`float`, *optional*, defaults to `0.4`): Weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`): τ of the plausible set.
        max_new_tokens (`int`, *optional*, defaults to `128`): Longest completion to measure on, in tokens.
        seed (`int`, *optional*, defaults to `0`): Seed of the completions.
        batch_size (`int`, *optional*, defaults to `8`): Prompts per batch.
        full_svd_limit (`int`, *optional*, defaults to `4096`): Smaller side up to which a matrix gets a full SVD.
        device (`str`, *optional*, defaults to `"cpu"`): Where matrices are factored and models run.
    """

    policy: str = field(metadata={"help": "Model after alignment: path or Hub id."})
    reference: str = field(metadata={"help": "Model before alignment: path or Hub id."})
    output_dir: str = field(metadata={"help": "Directory of the pair and the report."})
    rank: int = field(default=16, metadata={"help": "Rank of the adapter that is written."})
    ranks: list[int] | None = field(default=None, metadata={"help": "Ranks to measure."})
    prompts: str | None = field(default=None, metadata={"help": "Prompts to measure the approximation on."})
    alpha: float = field(default=0.4, metadata={"help": "Weight in [0, 1] kept on the policy."})
    plausibility_threshold: float = field(default=0.1, metadata={"help": "Plausible: p >= threshold * max p."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest completion to measure on, in tokens."})
    seed: int = field(default=0, metadata={"help": "Seed of the completions."})
    batch_size: int = field(default=8, metadata={"help": "Prompts per batch."})
    full_svd_limit: int = field(default=4096, metadata={"help": "Larger matrices get a randomised SVD."})
    device: str = field(default="cpu", metadata={"help": "Where it runs: cpu, cuda, ..."})
