"""The one place that knows what the compiler's JSON report looks like."""

from __future__ import annotations

import json
from pathlib import Path


class Report:
    """What `--json` wrote."""

    def __init__(self, text: str):
        self.fields = json.loads(text)

    @classmethod
    def read(cls, path: Path) -> Report:
        return cls(path.read_text(encoding="utf-8"))

    def reasons(self, node: str) -> set[str]:
        """Reason codes of the remarks about `node`, in whatever graph it stands."""
        return {reason for name, reason in self.remarks() if name == node}

    def remarks(self) -> list[tuple[str, str]]:
        """Node names and reason codes; a node without a name goes by its first output."""
        return [(remark["node"], remark["reason"]) for remark in self.fields["remarks"]]

    def weights(self) -> list[dict]:
        return self.fields["weights"]
