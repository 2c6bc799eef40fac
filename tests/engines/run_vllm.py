# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One vLLM engine in a process of its own: `run_vllm.py SPEC RESULT`, both JSON. Used by test_vllm.py."""

import json
import sys

from vllm import LLM, SamplingParams


def main(spec, result):
    with open(spec) as file:
        spec = json.load(file)
    llm = LLM(**spec["engine"])
    batches = []
    for prompts, sampling in spec["batches"]:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], SamplingParams(**sampling))
        batches.append(
            [
                {
                    "ids": [list(completion.token_ids) for completion in output.outputs],
                    "cached": output.num_cached_tokens,
                    "logprobs": [
                        {id: logprob.logprob for id, logprob in step.items()}
                        for step in output.outputs[0].logprobs or ()
                    ],
                }
                for output in outputs
            ]
        )
    drafts = sum(metric.value for metric in llm.get_metrics() if metric.name == "vllm:spec_decode_num_drafts")
    with open(result, "w") as file:
        json.dump({"batches": batches, "drafts": drafts}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
