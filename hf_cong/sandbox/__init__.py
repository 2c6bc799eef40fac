# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
from .demo import run_demo
from .gold import gold_reward
from .models import SandboxPaths, build_sandbox
from .world import prompts

__all__ = ["SandboxPaths", "build_sandbox", "gold_reward", "prompts", "run_demo"]
