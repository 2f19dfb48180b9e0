"""The form of the cases."""

from typing import Any

Case = tuple[str, dict[str, Any]]
"""The class in transformers, and the settings of its configuration."""

Cases = dict[str, Case]
"""Cases by name."""
