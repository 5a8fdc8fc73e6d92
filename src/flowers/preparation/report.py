"""Write the findings of a verification as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from flowers.errors import InputError
from flowers.preparation.verify import Verification
from flowers.system.atomic import write_atomic


def write_report(path: Path, verification: Verification) -> None:
    """Write a verification's parts and findings as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    parts = [
        {"size": part.size, "split": part.split, "shards": len(part.files), "records": part.found}
        | {"classes": part.classes, "bad": part.bad}
        for part in verification.parts
    ]
    findings = [asdict(finding) for finding in verification.findings]
    report = {"class_count": verification.class_count, "parts": parts, "findings": findings}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"report={path}: cannot be written: {error.strerror}. Set report to another file.") from None
