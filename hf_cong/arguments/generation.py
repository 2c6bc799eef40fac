# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the commands that write completions, make datasets of them, and time it."""

from dataclasses import dataclass, field


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
