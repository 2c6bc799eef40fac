# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-Strong Search: a frozen model samples, and a weak pair's implicit reward chooses.

Source: [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262).
"""
