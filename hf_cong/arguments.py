# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the commands: what a recipe may say, and what `--help` shows."""

import json
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
class GenerateArguments:
    """
    Arguments of `hf-cong generate`: prompts to completions.

    Args:
        prompts (`str`): A `.jsonl` or `.parquet` file, or the id of a dataset on the Hub, with a column `prompt`.
        output_dir (`str`): Where completions, journal and manifest go. The same command resumes there.
        policy (`str`): The model after alignment: path or Hub id. It may be a LoRA adapter, whose base then is the
            reference, or a saved pair, with or without a base. With `engine`, only its tokenizer is read.
        reference (`str`, *optional*): The model before alignment. Without it, a model that is neither an adapter nor a
            pair writes alone.
        base (`str`, *optional*): A large model of the same vocabulary that writes, steered by the pair (emulated
            fine-tuning): path or Hub id.
        engine (`str`, *optional*): URL of a server that writes in our stead, such as `vllm serve`:
            `"http://localhost:8000/v1"`. Its key is read from the environment variable `OPENAI_API_KEY`.
        alpha (`float`, *optional*): Weight kept on the policy. Defaults to a saved pair's own, else to 0.4.
        beta (`float`, *optional*): Weight of the pair that steers a `base`. Defaults to a saved model's own, else to
            1.0.
        plausibility_threshold (`float`, *optional*): τ of the plausible set. Defaults to a saved model's own, else to
            0.1; with a `base` to 0.1, whatever the pair's own.
        dtype (`str`, *optional*): Dtype of the weights: `"auto"` (the default), `"bfloat16"`, `"float16"` or
            `"float32"`.
        seed (`int`, *optional*, defaults to `0`): Seed; each prompt has its own stream.
        max_new_tokens (`int`, *optional*, defaults to `2048`): Longest completion, in tokens.
        temperature (`float`, *optional*, defaults to `0.8`): Sampling temperature.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus.
        top_k (`int`, *optional*, defaults to `0`): Top-k; 0 turns it off.
        batch_size (`int`, *optional*): Prompts per batch; 8 here, and 64 at a time at a server.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`): `"drop"` leaves bad rows out and counts them.
    """

    prompts: str = field(metadata={"help": "JSONL or Parquet file, or Hub dataset id, with a column `prompt`."})
    output_dir: str = field(metadata={"help": "Directory of completions, journal and manifest."})
    policy: str = field(metadata={"help": "Model after alignment, LoRA adapter or saved pair: path or Hub id."})
    reference: str | None = field(default=None, metadata={"help": "Model before alignment: path or Hub id."})
    base: str | None = field(default=None, metadata={"help": "Large model to be steered by the pair: path or Hub id."})
    engine: str | None = field(default=None, metadata={"help": "URL of a server, e.g. http://localhost:8000/v1."})
    alpha: float | None = field(default=None, metadata={"help": "Weight in [0, 1] kept on the policy (0.4)."})
    beta: float | None = field(default=None, metadata={"help": "Weight of the pair that steers `base` (1.0)."})
    plausibility_threshold: float | None = field(
        default=None, metadata={"help": "Plausible: p >= threshold * max p (0.1)."}
    )
    dtype: str | None = field(
        default=None,
        metadata={"help": "Dtype of the weights (auto).", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the run; each prompt has its own stream."})
    max_new_tokens: int = field(default=2048, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=0.8, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus."})
    top_k: int = field(default=0, metadata={"help": "Top-k; 0 turns it off."})
    batch_size: int | None = field(default=None, metadata={"help": "Prompts per batch (8), or at a server (64)."})
    invalid_prompts: str = field(
        default="raise", metadata={"help": "raise, or drop and count bad prompts.", "choices": ["raise", "drop"]}
    )


@dataclass
class SearchArguments:
    """
    Arguments of `hf-cong search`: a frozen model writes, and a weak pair's implicit reward chooses.

    Args:
        prompts (`str`): A `.jsonl` or `.parquet` file, or the id of a dataset on the Hub, with a column `prompt`.
        output_dir (`str`): Where results, table, picture and journals go. The same command resumes there.
        model (`str`): The model that writes: path or Hub id (a saved pair too), or, on the command line only, the URL
            of a server with OpenAI's endpoint `/completions`: `"http://localhost:8000/v1"`. Its key is read from the
            environment variable `OPENAI_API_KEY`.
        policy (`str`): The weak model after alignment: path or Hub id. It may be a LoRA adapter, whose base then is
            the reference, or a saved pair. Its vocabulary need not be that of `model`.
        reference (`str`, *optional*): The weak model before alignment.
        tokenizer (`str`, *optional*): The tokenizer of the model behind a URL: path or Hub id. Needed for prompts that
            are messages.
        methods (`list[str]`, *optional*, defaults to `["base", "chunk_beam_search"]`): What to compare: `"base"` (one
            sample), `"best_of_n"` (of `beam_width * successors_per_beam` samples) and `"chunk_beam_search"`.
        beam_width (`int`, *optional*, defaults to `4`): W, hypotheses that survive a chunk.
        successors_per_beam (`int`, *optional*, defaults to `4`): K, samples of each for the next chunk.
        chunk_length (`int`, *optional*, defaults to `5`): L, tokens of a chunk.
        max_new_tokens (`int`, *optional*, defaults to `128`): Longest completion, in tokens.
        temperature (`float`, *optional*, defaults to `0.7`): Sampling temperature.
        top_k (`int`, *optional*, defaults to `50`): Top-k; 0 turns it off. Not every server takes it.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus.
        stop_strings (`list[str]`, *optional*): Texts that end a completion.
        beta (`float`, *optional*, defaults to `1.0`): Scale of the reward.
        seed (`int`, *optional*, defaults to `0`): Seed; each prompt has its own streams.
        batch_size (`int`, *optional*, defaults to `8`): Prompts that are searched together.
        concurrency (`int`, *optional*, defaults to `16`): Most requests that are with a server at a time.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the weights.
        preferences (`str`, *optional*): A `.jsonl` or `.parquet` file, or the id of a dataset on the Hub, with the
            columns `prompt`, `chosen` and `rejected`: on it the pair's reward accuracy is measured first.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`): `"drop"` leaves bad rows out and counts them.
    """

    prompts: str = field(metadata={"help": "JSONL or Parquet file, or Hub dataset id, with a column `prompt`."})
    output_dir: str = field(metadata={"help": "Directory of results, table, picture and journals."})
    model: str = field(metadata={"help": "Model that writes: path or Hub id, or the URL of a server."})
    policy: str = field(metadata={"help": "Weak model after alignment, LoRA adapter or saved pair: path or Hub id."})
    reference: str | None = field(default=None, metadata={"help": "Weak model before alignment: path or Hub id."})
    tokenizer: str | None = field(default=None, metadata={"help": "Tokenizer of the model behind a URL."})
    methods: list[str] = field(
        default_factory=lambda: ["base", "chunk_beam_search"],
        metadata={"help": "What to compare: base, best_of_n, chunk_beam_search."},
    )
    beam_width: int = field(default=4, metadata={"help": "W: hypotheses that survive a chunk."})
    successors_per_beam: int = field(default=4, metadata={"help": "K: samples of each for the next chunk."})
    chunk_length: int = field(default=5, metadata={"help": "L: tokens of a chunk."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature."})
    top_k: int = field(default=50, metadata={"help": "Top-k; 0 turns it off."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus."})
    stop_strings: list[str] | None = field(default=None, metadata={"help": "Texts that end a completion."})
    beta: float = field(default=1.0, metadata={"help": "Scale of the reward."})
    seed: int = field(default=0, metadata={"help": "Seed of the run; each prompt has its own streams."})
    batch_size: int = field(default=8, metadata={"help": "Prompts that are searched together."})
    concurrency: int = field(default=16, metadata={"help": "Most requests at a server at a time."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    preferences: str | None = field(
        default=None, metadata={"help": "Prompts with chosen and rejected, to measure the pair's accuracy on."}
    )
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
class EvaluateArguments:
    """
    Arguments of `hf-cong evaluate`: systems side by side on tasks of lm-eval and on prompts.

    Args:
        output_dir (`str`): Where table, picture and journals go. The same command resumes there, and systems and tasks
            may be added.
        systems (`dict`): For every name `model` (one model), `policy` with `reference`, `base`, `alpha`, `beta`,
            `plausibility_threshold` (a pair), or `model` with `policy`, `reference`, `beam_width`,
            `successors_per_beam`, `chunk_length`, `temperature`, `top_k`, `top_p` (a search). On the command line as
            JSON.
        baseline (`str`): The system that all others are compared with.
        tasks (`str`, `list` or `dict`, *optional*): Tasks of lm-eval, or `"downstream"`: MMLU, ARC-Challenge,
            HellaSwag, TruthfulQA (MC2), Winogrande, GSM8K and IFEval, at 5, 25, 10, 0, 5, 5 and 0 examples. One name,
            several with commas between them, a list; or a mapping from names to `num_fewshot` and `metric`.
        include_path (`str`, *optional*): Folder with task files of your own. On the command line only: task files can
            run code.
        limit (`int`, *optional*): Documents of each task, the first ones: for a trial.
        apply_chat_template (`bool`, *optional*, defaults to `False`): Whether tasks go through the chat templates.
        prompts (`str`, *optional*): A `.jsonl` or `.parquet` file, or the id of a dataset on the Hub, with a column
            `prompt`, which every system completes.
        reward (`str`, *optional*): The system whose pair gives the implicit reward of every completion.
        judge (`str`, *optional*): Who compares every completion with the baseline's: a reward model, path or Hub id;
            or, on the command line only, the URL of a model.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether to run a head that comes as code with the
            judge. On the command line only.
        max_new_tokens (`int`, *optional*, defaults to `512`): Longest completion of a prompt, in tokens.
        temperature (`float`, *optional*, defaults to `0.8`): Sampling temperature.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus.
        top_k (`int`, *optional*, defaults to `0`): Top-k; 0 turns it off.
        seed (`int`, *optional*, defaults to `0`): Seed of the completions.
        batch_size (`int`, *optional*, defaults to `8`): Rows per batch.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of all weights.
    """

    output_dir: str = field(metadata={"help": "Directory of table, picture and journals."})
    baseline: str = field(metadata={"help": "The system that all others are compared with."})
    # `str` stands second, where the parser looks for the type of a command line's text.
    systems: dict | str | None = field(default=None, metadata={"help": "Systems by name, as JSON."})
    tasks: dict | str | list | None = field(default=None, metadata={"help": "Tasks of lm-eval, or downstream."})
    include_path: str | None = field(default=None, metadata={"help": "Folder with task files of your own."})
    limit: int | None = field(default=None, metadata={"help": "Documents of each task, for a trial."})
    apply_chat_template: bool = field(default=False, metadata={"help": "Tasks go through the chat templates."})
    prompts: str | None = field(
        default=None,
        metadata={"help": "Prompts that every system completes: JSONL or Parquet file, or Hub dataset id."},
    )
    reward: str | None = field(default=None, metadata={"help": "The system whose pair gives the implicit reward."})
    judge: str | None = field(default=None, metadata={"help": "Reward model, or the URL of a model, that compares."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run a head that comes as code; by hand only."})
    max_new_tokens: int = field(default=512, metadata={"help": "Longest completion of a prompt, in tokens."})
    temperature: float = field(default=0.8, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus."})
    top_k: int = field(default=0, metadata={"help": "Top-k; 0 turns it off."})
    seed: int = field(default=0, metadata={"help": "Seed of the completions."})
    batch_size: int = field(default=8, metadata={"help": "Rows per batch."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )

    def __post_init__(self):
        _read_json(self, "systems", "tasks")


@dataclass
class BuildArguments:
    """
    Arguments of `hf-cong build`: completions to an SFT or a preference dataset.

    Args:
        chosen (`str`): Output directory of a `hf-cong generate` run.
        output_dir (`str`): Where the Parquet file and its manifest go.
        rejected (`str`, *optional*): Another such directory; with it, a preference dataset is built.
        drop_truncated (`bool`, *optional*, defaults to `True`): Whether to drop what the length limit cut.
    """

    chosen: str = field(metadata={"help": "Output directory of a `hf-cong generate` run."})
    output_dir: str = field(metadata={"help": "Directory of the dataset and its manifest."})
    rejected: str | None = field(default=None, metadata={"help": "Another such directory: builds preferences."})
    drop_truncated: bool = field(default=True, metadata={"help": "Drop completions that the length limit cut."})


@dataclass
class JudgeArguments:
    """
    Arguments of `hf-cong judge`: which system's completions are better?

    Args:
        systems (`dict`): For every name the output directory of `hf-cong generate` or `hf-cong search` (by several
            methods: `PATH#METHOD`), or a `.jsonl` or `.parquet` file with the columns `prompt` and `completion`. On
            the command line as JSON. Joined by prompt.
        judge (`str`): A reward model, path or Hub id; or, on the command line only, the URL of a server with OpenAI's
            endpoint `/chat/completions`: `"http://localhost:8000/v1"`, which is asked in both orders. Its key is read
            from the environment variable `OPENAI_API_KEY`.
        output_dir (`str`): Where verdicts, table, picture and journal go. The same command resumes there.
        baseline (`str`, *optional*): The system that all others are compared with. Without it, every two are.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of a reward model's weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether to run a head that comes as code with a
            reward model. On the command line only.
        batch_size (`int`, *optional*, defaults to `8`): Texts that a reward model scores together.
        max_new_tokens (`int`, *optional*, defaults to `1024`): Longest answer of a judge behind a URL, in tokens.
        concurrency (`int`, *optional*, defaults to `16`): Most requests that are with a server at a time.
    """

    judge: str = field(metadata={"help": "Reward model: path or Hub id; or the URL of a server."})
    output_dir: str = field(metadata={"help": "Directory of verdicts, table, picture and journal."})
    systems: dict | str | None = field(default=None, metadata={"help": "Paths of completions by system, as JSON."})
    baseline: str | None = field(default=None, metadata={"help": "System that all others are compared with."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run a head that comes as code; by hand only."})
    batch_size: int = field(default=8, metadata={"help": "Texts that are scored together."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Longest answer of a judge behind a URL, in tokens."})
    concurrency: int = field(default=16, metadata={"help": "Most requests at a server at a time."})

    def __post_init__(self):
        _read_json(self, "systems")


@dataclass
class ExportArguments:
    """
    Arguments of `hf-cong export`: completions as a file for a benchmark with a judge of its own.

    Args:
        completions (`str`): Output directory of `hf-cong generate` or `hf-cong search` (by several methods:
            `PATH#METHOD`), or a `.jsonl` or `.parquet` file with the columns `prompt` and `completion`.
        format (`str`): `"alpaca_eval"` writes `model_outputs.json`, `"arena_hard"` writes `NAME.jsonl`.
        name (`str`): The system's name on the leaderboard.
        output_dir (`str`): Where the file goes; for Arena-Hard its `data/<benchmark>/model_answer`.
        questions (`str`, *optional*): The benchmark's own questions: AlpacaEval's `alpaca_eval.json`, which gives the
            order and where each is from, or Arena-Hard's `question.jsonl`, which is needed for its ids.
        tokenizer (`str`, *optional*): A tokenizer equal to GPT-4o's, path or Hub id such as `Xenova/gpt-4o`, which
            counts the tokens that Arena-Hard's style control reads. Without it that metadata is left out.
    """

    completions: str = field(metadata={"help": "Completions: a run's directory, PATH#METHOD, or a file."})
    format: str = field(metadata={"help": "Whose format.", "choices": ["alpaca_eval", "arena_hard"]})
    name: str = field(metadata={"help": "The system's name on the leaderboard."})
    output_dir: str = field(metadata={"help": "Directory that gets the file."})
    questions: str | None = field(default=None, metadata={"help": "The benchmark's own questions."})
    tokenizer: str | None = field(default=None, metadata={"help": "GPT-4o's tokenizer, for style control."})


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


@dataclass
class BenchArguments:
    """
    Arguments of `hf-cong bench`: how fast contrastive decoding is here.

    Args:
        output_dir (`str`, *optional*, defaults to `"runs/bench"`): Where table, picture and samples go. The same
            command resumes there.
        shape (`str`, *optional*, defaults to `"qwen2-110m"`): Random weights of this configuration: `"qwen2-110m"`,
            `"qwen2.5-0.5b"`, `"qwen2.5-1.5b"` or `"qwen2.5-3b"`.
        policy (`str`, *optional*): A model after alignment to run instead of random weights: path or Hub id.
        reference (`str`, *optional*): The model before alignment.
        batch_sizes (`list[int]`, *optional*, defaults to `[1, 8, 32]`): Rows decoded together.
        prompt_length (`int`, *optional*, defaults to `64`): Tokens of a prompt.
        new_tokens (`int`, *optional*, defaults to `48`): Tokens written after it.
        rounds (`int`, *optional*, defaults to `5`): Measurements of each contestant at each batch size.
        device (`str`, *optional*, defaults to `"cpu"`): `"cpu"` or `"cuda"`.
        dtype (`str`, *optional*, defaults to `"float32"`): Dtype of the weights: `"float32"`, `"bfloat16"` or
            `"float16"`.
        compile (`bool`, *optional*, defaults to `False`): Whether to add the compiled forms, with a static cache; CUDA
            graphs on a GPU.
        continuous_batching (`bool`, *optional*, defaults to `False`): Whether to add `generate_batch`.
        alpha (`float`, *optional*, defaults to `0.4`): Weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`): τ of the plausible set.
        seed (`int`, *optional*, defaults to `0`): Seed of weights and prompts.
    """

    output_dir: str = field(default="runs/bench", metadata={"help": "Directory of table, picture and samples."})
    shape: str = field(default="qwen2-110m", metadata={"help": "qwen2-110m, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b."})
    policy: str | None = field(default=None, metadata={"help": "Model after alignment, instead of random weights."})
    reference: str | None = field(default=None, metadata={"help": "Model before alignment: path or Hub id."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8, 32], metadata={"help": "Rows decoded together."})
    prompt_length: int = field(default=64, metadata={"help": "Tokens of a prompt."})
    new_tokens: int = field(default=48, metadata={"help": "Tokens written after it."})
    rounds: int = field(default=5, metadata={"help": "Measurements of each contestant at each batch size."})
    device: str = field(default="cpu", metadata={"help": "Where it runs.", "choices": ["cpu", "cuda"]})
    dtype: str = field(
        default="float32",
        metadata={"help": "Dtype of the weights.", "choices": ["float32", "bfloat16", "float16"]},
    )
    compile: bool = field(default=False, metadata={"help": "Add the compiled forms, with a static cache."})
    continuous_batching: bool = field(default=False, metadata={"help": "Add `generate_batch`."})
    alpha: float = field(default=0.4, metadata={"help": "Weight in [0, 1] kept on the policy."})
    plausibility_threshold: float = field(default=0.1, metadata={"help": "Plausible: p >= threshold * max p."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and prompts."})


def _read_json(arguments: object, *names: str) -> None:
    """Reads what the command line gave as JSON; a recipe gives it as YAML."""
    for name in names:
        value = getattr(arguments, name)
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            try:
                setattr(arguments, name, json.loads(value))
            except json.JSONDecodeError as error:
                raise ValueError(f"`{name}` is not JSON ({error}): {value[:80]}. Correct it.") from None
