"""Measures a bundle on a Jetson and records the board's state during it, in one tarball to read elsewhere.

Needs Python and the light install only (no torch). Lock the clocks first; they are recorded, never changed:

    sudo nvpmodel -m 0 && sudo jetson_clocks
    sudo python tools/jetson/session.py BUNDLE -o session.tar.gz -- --batch 1 --threads 4
    python tools/jetson/read_session.py session.tar.gz

Only `jetson_clocks --show` needs root; without it the session has no clocks and says so. Options after `--` go to
`qvit-deploy bench`. `--build tensorrt` builds the bundle's engine on the board first and measures that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "nvpmodel.txt": ("nvpmodel", "-q"),
    "jetson_clocks.txt": ("jetson_clocks", "--show"),
    "uname.txt": ("uname", "-a"),
    "dpkg.txt": ("dpkg-query", "-W", "nvidia-jetpack", "nvidia-l4t-core", "libnvinfer10", "libnvinfer11"),
}
FILES = {"nv_tegra_release.txt": "/etc/nv_tegra_release", "model.txt": "/proc/device-tree/model"}
COUNTERS = "/sys/class/hwmon/hwmon*/oc*_event_cnt"
INTERVAL_MS = 500
QVIT = (sys.executable, "-m", "qvit_deploy")


def main() -> int:
    own, bench = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("session.tar.gz"))
    parser.add_argument("--build", metavar="TARGET", help="run `qvit-deploy build` first, e.g. for tensorrt")
    arguments = parser.parse_args(own)
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists; choose another output")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / arguments.out.name.removesuffix(".tar.gz")
        folder.mkdir()
        code = record(folder, arguments.bundle, arguments.build, bench)
        with tarfile.open(arguments.out, "w:gz") as tar:
            tar.add(folder, arcname=folder.name)
    print(
        f"written to {arguments.out}" + ("" if code == 0 else f"; bench ended with exit code {code}"), file=sys.stderr
    )
    return code


def record(folder: Path, bundle: Path, build: str | None, bench: Sequence[str]) -> int:
    """Fills `folder`; returns the exit code of the first command that failed, 0 when none did."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    missing = [name for name, command in COMMANDS.items() if not _record_output(command, folder / name)]
    for name, path in FILES.items():
        if Path(path).exists():
            shutil.copyfile(path, folder / name)
        else:
            missing.append(name)
    before = counters()
    log = (folder / "tegrastats.txt").open("wb")
    tegrastats = None
    if shutil.which("tegrastats"):
        tegrastats = subprocess.Popen(
            ["tegrastats", "--interval", str(INTERVAL_MS)], stdout=log, stderr=subprocess.STDOUT
        )
    else:
        missing.append("tegrastats.txt")
    code = 0
    try:
        if build is not None:
            code = _run([*QVIT, "build", str(bundle), "--target", build, "--json"], folder / "build")
        if code == 0:
            options = ["-o", str(folder / "measurement.json"), *bench_options(build, bench)]
            code = _run([*QVIT, "bench", str(bundle), *options], folder / "bench")
    finally:
        if tegrastats is not None:
            tegrastats.terminate()
            tegrastats.wait()
        log.close()
    after = counters()
    session = {
        "schema": "qvit-deploy/jetson-session/1",
        "started": started,
        "interval_ms": INTERVAL_MS,
        "bench": list(bench),
        "exit_code": code,
        "missing": missing,
        "over_current_events": {name: [before[name], after.get(name, before[name])] for name in before},
    }
    (folder / "session.json").write_text(json.dumps(session, indent=1))
    return code


def bench_options(build: str | None, bench: Sequence[str]) -> list[str]:
    """Adds the target that was built to the options of bench, unless they name one."""
    has_target = any(option.partition("=")[0] == "--target" for option in bench)
    return [*([] if build is None or has_target else ["--target", build]), *bench]


def counters() -> dict[str, int]:
    """Reads the hardware throttling counters of the board, by file."""
    values = {}
    for path in sorted(Path("/").glob(COUNTERS.lstrip("/"))):
        try:
            values[f"{path.parent.name}/{path.name}"] = int(path.read_text())
        except (OSError, ValueError):
            continue
    return values


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns (own arguments, those after --)."""
    if "--" not in arguments:
        return arguments, []
    index = arguments.index("--")
    return arguments[:index], arguments[index + 1 :]


def _record_output(command: Sequence[str], file: Path) -> bool:
    """Writes what a command prints, errors included, to `file`; returns False when it does not exist or fails."""
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    file.write_bytes(done.stdout)
    return done.returncode == 0


def _run(command: Sequence[str], log: Path) -> int:
    """Runs a command, writes what it prints to a log and to standard error; returns its exit code."""
    with log.with_suffix(".out.txt").open("wb") as out:
        code = subprocess.run(command, stdout=out, check=False).returncode
    sys.stderr.write(log.with_suffix(".out.txt").read_text(errors="replace"))
    return code


if __name__ == "__main__":
    sys.exit(main())
