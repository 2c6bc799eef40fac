# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the commands that compare systems."""

import json
from dataclasses import dataclass, field


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


def _read_json(arguments: object, *names: str) -> None:
    """Reads what the command line gave as JSON; a recipe gives it as YAML."""
    for name in names:
        value = getattr(arguments, name)
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            try:
                setattr(arguments, name, json.loads(value))
            except json.JSONDecodeError as error:
                raise ValueError(f"`{name}` is not JSON ({error}): {value[:80]}. Correct it.") from None
