# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""vLLM engines, one after another: in the process of the caller, or in one of their own, `run_vllm.py JOBS RESULTS`.

Used by test_vllm.py. Importing vLLM takes longer than starting an engine on a tiny model, so most share a process.
"""

import json
import sys

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def run(engine: dict, *batches: tuple[list, dict]) -> dict:
    """What a new engine answers to batches of `(prompts, sampling)`, and how many drafts it verified."""
    try:
        llm = LLM(**engine)
        answers = [
            [_facts(output) for output in llm.generate(_ids(prompts), SamplingParams(**sampling), use_tqdm=False)]
            for prompts, sampling in batches
        ]
        drafts = sum(metric.value for metric in llm.get_metrics() if metric.name == "vllm:spec_decode_num_drafts")
        llm.llm_engine.engine_core.shutdown()
        return {"batches": answers, "drafts": drafts}
    finally:
        cleanup_dist_env_and_memory()


def _ids(prompts):
    return [{"prompt_token_ids": ids} for ids in prompts]


def _facts(output):
    first, *rest = output.prompt_token_ids
    return {
        "ids": [list(completion.token_ids) for completion in output.outputs],
        "cached": output.num_cached_tokens,
        "logprobs": [
            {id: logprob.logprob for id, logprob in step.items()} for step in output.outputs[0].logprobs or ()
        ],
        "prompt_logprobs": [
            step[id].logprob for id, step in zip(rest, (output.prompt_logprobs or ())[1:], strict=False)
        ],
    }


def main(jobs: str, results: str):
    answers = []
    with open(jobs) as file:
        for engine, batches in json.load(file):
            try:
                answers.append(run(engine, *batches))
            except Exception as error:  # vLLM raises nothing narrower when a worker of its fails
                answers.append({"error": str(error)})
    with open(results, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
