"""Builds engines, each in a process of its own, and writes them atomically with their records."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from qvit_deploy.artifacts.atomic import make_folder, temporary_path, whole_file
from qvit_deploy.artifacts.engine_record import BuildRequest, BuildResult, EngineRecord, Plugin, record_path
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.progress import Advance, Progress, Stopwatch
from qvit_deploy.targets.child_process import ended, environment, tail

UNITS = 1000
"""Length of the progress bar: a build announces its phases one by one, so its progress is only known as a share."""


def build_engine(
    request: BuildRequest, *, timeout: float, force: bool = False, progress: Progress | None = None
) -> EngineRecord:
    """Builds the engine of `request`; it and its record get their names when both are written.

    Args:
        timeout: seconds after which the process is killed.
        force: replace an engine of that name.

    Raises:
        InputError: the file, the library, the GPU or the request cannot be used.
        CheckError: the building process died or took too long.
    """
    engine = request.engine
    if engine.suffix == ".json":
        raise InputError(f"{engine}: that is where the engine's record goes; call the engine NAME.engine")
    if not request.onnx.is_file():
        raise InputError(f"no ONNX file at {request.onnx}")
    if not force and (existing := next((p for p in (engine, record_path(engine)) if os.path.lexists(p)), None)):
        raise InputError(f"{existing} exists; pass --force to build it again")
    label = f"build sm{request.sm}" if request.sm is not None else "build"
    new_folder = not engine.parent.exists()
    start = time.monotonic()
    make_folder(engine.parent)
    try:
        with temporary_path(engine) as folder:
            make_folder(folder)
            child_request = _redirected(request, folder)
            with Stopwatch(progress).stage(label, UNITS) as advance:
                result = _build_in_child(child_request, timeout, advance)
            record = _record(request, child_request.engine, result, time.monotonic() - start)
            with whole_file(record_path(engine)) as temporary:
                temporary.write_text(record.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")
                layer_info = child_request.layer_info
                if layer_info is not None and layer_info.is_file() and request.layer_info is not None:
                    layer_info.replace(request.layer_info)
                # Before its record: stopped in between, the old record's digest refuses the new engine.
                child_request.engine.replace(engine)
    finally:
        if new_folder and not any(engine.parent.iterdir()):
            engine.parent.rmdir()
    return record


def _redirected(request: BuildRequest, folder: Path) -> BuildRequest:
    """Returns the request for the building process, which writes into `folder` and may run in any folder."""
    return request.model_copy(
        update={
            "onnx": request.onnx.resolve(),
            "engine": (folder / request.engine.name).resolve(),
            "plugins": tuple(p.resolve() for p in request.plugins),
            "timing_cache": None if request.timing_cache is None else request.timing_cache.resolve(),
            "layer_info": None if request.layer_info is None else (folder / request.layer_info.name).resolve(),
        }
    )


def _record(request: BuildRequest, engine: Path, result: BuildResult, seconds: float) -> EngineRecord:
    """Returns the record of a built engine, which is still at the path `engine`."""
    return EngineRecord(
        target=request.target,
        batch=request.batch,
        hardware=request.hardware,
        plugins=tuple(Plugin(name=p.name, sha256=FileRecord.of_file(p).sha256) for p in request.plugins),
        onnx=FileRecord.of_file(request.onnx),
        onnx_name=request.onnx.name,
        engine=FileRecord.of_file(engine),
        seconds=seconds,
        build=result,
    )


class Phases:
    """Computes the share of a build that is done from the phases that its monitor announces.

    A phase has steps; a child phase fills one step of its parent. Phases of unknown parents count as roots, and only
    the first root moves the bar.
    """

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._children: dict[str, list[str]] = {}
        self._root: str | None = None
        self._best = 0.0

    def event(self, event: dict[str, Any]) -> float:
        """Processes an event of the building process; returns the share done, 0..1, which never decreases."""
        if "phase" in event:
            name, parent = str(event["phase"]), event.get("parent")
            self._steps[name], self._done[name] = max(1, int(event["steps"])), 0
            self._children[name] = []
            for siblings in self._children.values():  # a phase that begins again leaves its former parent
                if name in siblings:
                    siblings.remove(name)
            if parent in self._children and parent != name:
                self._children[str(parent)].append(name)
            elif self._root is None:
                self._root = name
        elif "step" in event and event["step"] in self._steps:
            name = str(event["step"])
            self._done[name] = min(self._steps[name], max(self._done[name], int(event["done"])))
            self._children[name] = []
        elif "finished" in event and event["finished"] in self._steps:
            name = str(event["finished"])
            self._done[name], self._children[name] = self._steps[name], []
        if self._root is not None:
            self._best = max(self._best, self._share(self._root))
        return self._best

    def _share(self, name: str) -> float:
        inside = max((self._share(c) for c in self._children[name]), default=0.0)
        return min(1.0, (self._done[name] + inside) / self._steps[name])


def _build_in_child(request: BuildRequest, timeout: float, advance: Advance) -> BuildResult:
    """Runs `builder_process` on `request`. Raises InputError with its reason, CheckError when it dies."""
    readable, writable = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(readable, "rb", buffering=0) as pipe:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "qvit_deploy.targets.tensorrt.engine.builder.builder_process", str(writable)],
                stdin=subprocess.PIPE, stdout=errors, stderr=errors, pass_fds=[writable], start_new_session=True,
                cwd=request.engine.parent, env=environment(),
            )  # fmt: skip
        finally:
            os.close(writable)
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died already, which is reported below
                child.stdin.write(request.model_dump_json().encode())
                child.stdin.close()
            answer = _listen(pipe, time.monotonic() + timeout, advance)
            if answer is None:
                raise CheckError(
                    f"building {request.engine.name} took more than {timeout:g} s; give it more with --timeout"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=10)  # it has answered, or died
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # the library's own helpers too
            code = child.wait()
        if "result" in answer:
            return BuildResult.model_validate(answer["result"])
        if "error" in answer:
            raise InputError(str(answer["error"]))
        errors.seek(0)
        said = tail(errors.read())
        raise CheckError(f"the process that builds {request.engine.name} {ended(code)}; it last said: {said}")


def _listen(pipe: IO[bytes], deadline: float, advance: Advance) -> dict[str, Any] | None:
    """Returns the result or error event that the child sends, {} if there is none, None when the deadline passes."""
    phases, shown, buffer = Phases(), 0, b""
    answer: dict[str, Any] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = pipe.read(1 << 16)
            if not chunk:
                return answer
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if "result" in event or "error" in event:
                    answer = event
                now = int(UNITS * phases.event(event))
                if now > shown:
                    advance(now - shown)
                    shown = now
