# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How numbers are shown: means with intervals, tables, pictures. Nothing here knows a model or a method."""
