from __future__ import annotations

from typing import Any

from tools.ci.coverage_by_package import by_package


def file(statements: int, missing: int) -> dict[str, Any]:
    return {"summary": {"num_statements": statements, "missing_lines": missing}}


def test_files_are_grouped_by_their_package() -> None:
    report = {
        "files": {
            "qvit_deploy/emit/rows.py": file(80, 7), "qvit_deploy/emit/qdq.py": file(60, 0),
            "qvit_deploy/emit/__init__.py": file(0, 0), "qvit_deploy/errors.py": file(20, 1),
        }
    }  # fmt: skip
    assert by_package(report) == {
        "qvit_deploy/emit": [("rows.py", 80, 7), ("qdq.py", 60, 0)],
        "qvit_deploy": [("errors.py", 20, 1)],
    }
