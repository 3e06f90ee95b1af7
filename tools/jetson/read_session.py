"""Prints what a Jetson session measured, and whether the board was slowed down during it.

python tools/jetson/read_session.py SESSION.tar.gz [--measurement FILE] [--json]

`--measurement` extracts the measurement, for `qvit-deploy check`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from qvit_deploy.artifacts.atomic import write_file
from qvit_deploy.bench.device.jetson_session import Session, read_session
from qvit_deploy.cli.console import error_line
from qvit_deploy.errors import QvitError


def summary(session: Session) -> dict[str, Any]:
    """Returns the facts to print, in order; what the board does not report is left out."""
    loads = [s.gpu_load for s in session.samples if s.gpu_load is not None]
    hottest = [s.celsius["tj"] for s in session.samples if "tj" in s.celsius]
    locked = sorted(name for name, clock in session.clocks.items() if clock.locked)
    facts: dict[str, Any] = {
        "board": session.board,
        "L4T": session.release,
        "power mode": session.mode,
        "clocks locked": ", ".join(locked) if session.clocks else None,
        "started": session.facts.started,
        "seconds recorded": len(session.samples) * session.facts.interval_ms / 1e3,
        "GPU load, median %": statistics.median(loads) if loads else None,
        "junction, highest C": max(hottest) if hottest else None,
        "memory, highest MB": max((s.ram_mb for s in session.samples), default=None),
        "power, mean W": session.watts,
        "throttled": list(session.throttled) or "no sign of it",
        "not recorded": ", ".join(session.facts.missing) or None,
        "lines not read": session.unread or None,
    }
    if session.measurement is not None:
        latency = session.measurement.latency_ms
        facts |= {"file": session.measurement.file.name, "latency p50, ms": latency.p50, "latency p99, ms": latency.p99}
        facts["energy, J a run"] = session.joules_per_run
    else:
        facts["latency p50, ms"] = f"none: bench ended with exit code {session.facts.exit_code}"
    return {name: value for name, value in facts.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("session", type=Path)
    parser.add_argument("--measurement", type=Path, help="write the measurement here")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        session = read_session(arguments.session)
        if arguments.measurement is not None and session.measurement is not None:
            text = session.measurement.model_dump_json(by_alias=True, exclude_none=True, indent=2)
            write_file(arguments.measurement, text.encode() + b"\n")
    except QvitError as error:
        error_line(str(error))
        raise SystemExit(error.exit_code) from None
    facts = summary(session)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name:<21} {f'{line:.4g}' if isinstance(line, float) else line}")


if __name__ == "__main__":
    main()
