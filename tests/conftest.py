# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

# On a busy machine two threads can be many times slower than one, and one thread sums in one order.
torch.set_num_threads(1)
