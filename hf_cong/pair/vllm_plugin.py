# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""vLLM finds our models here: the entry point `vllm.general_plugins` of this package is `register`."""


def register():
    """
    Tells vLLM which classes run what `save_pretrained` wrote. It is called in each of vLLM's processes, possibly
    several times.

    Importing this module has imported `hf_cong.pair`, by which transformers knows their configurations.
    """
    from vllm import ModelRegistry

    # As strings: a model's module sets up CUDA when imported, which a process that is still to fork must not.
    for name in ("ContrastivePairForCausalLM", "ContrastiveLoraPairForCausalLM", "EmulatedFineTuningForCausalLM"):
        ModelRegistry.register_model(name, f"hf_cong.pair.vllm_models:{name}")
