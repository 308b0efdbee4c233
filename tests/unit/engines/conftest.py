"""Which tests are for this environment."""

from __future__ import annotations

from bert_large.engines import available_engines

collect_ignore = [] if "ipex" in available_engines() else ["test_ipex_operations.py"]
