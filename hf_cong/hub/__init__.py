# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Models, adapters, pairs, datasets and the decoding itself on the Hugging Face Hub."""
