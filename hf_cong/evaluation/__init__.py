# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Is a pair any good, and what did training change: tasks of lm-eval, metrics, judges, the α sweep, the pair check."""
