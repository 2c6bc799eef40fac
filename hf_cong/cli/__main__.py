# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""`python -m hf_cong.cli` is `hf-cong`."""

import sys

from . import main

sys.exit(main())
