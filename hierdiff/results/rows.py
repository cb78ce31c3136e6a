"""Cost rows of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALONE = "alone"  # part of a cost row
Row = Mapping[str, Any]
