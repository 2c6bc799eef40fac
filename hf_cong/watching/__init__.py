# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Seeing a run train: one run in the trackers, a log on disk, tables of completions, and pictures of it all."""
