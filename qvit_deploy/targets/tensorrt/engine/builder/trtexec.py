"""Writes the trtexec commands that build and time what `qvit-deploy build` would, for a given version of TensorRT.

What changed between versions (from trtexec's own option parsers, 10.3 to 11.1):

* `--stronglyTyped` makes 10.x keep the file's types; 11 always does;
* 11 inverted the defaults of timing: data transfers off, spin-wait and CUDA graph on. The commands set these three in
  10.x, so that a time means the same in all versions;
* `--hardwareCompatibilityLevel=sameComputeCapability` came with 10.9.

Flags of precision (`--fp16`, `--int8`) are never printed: the file has the types, and 11 has no such flags.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from qvit_deploy.artifacts.engine_record import BuildOptions
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.kind import ON_DEVICE
from qvit_deploy.targets.tensorrt.engine.library import parse_version

_LEVELS = {"ampere-plus": "ampere+", "same-capability": "sameComputeCapability"}
_SAME_CAPABILITY_SINCE = (10, 9)
NEWEST = 11


def check_version(text: str) -> tuple[int, ...]:
    """Parses '10.3' into (10, 3). Raises InputError unless it is 10.3 to 11.x."""
    version = parse_version(text)
    if version < ON_DEVICE.oldest or version[0] > NEWEST:
        raise InputError(f"--trt-version {text!r}: give a version of TensorRT from 10.3 to {NEWEST}.x")
    return version


def trtexec_commands(
    onnx: Path,
    engine: Path,
    version: tuple[int, ...],
    inputs: Mapping[str, tuple[int, ...]],
    options: BuildOptions,
) -> tuple[str, str]:
    """Returns (the command that builds the engine, the one that times it), each one line for a POSIX shell.

    Args:
        version: from `check_version`.
        inputs: by name, the shape without the batch of inputs whose batch may vary.

    Raises:
        InputError: the version lacks the hardware compatibility that the options name.
    """
    libraries = [f"--staticPlugins={p}" for p in options.plugins]
    build = [f"--onnx={onnx}", f"--saveEngine={engine}", "--skipInference", *libraries]
    if version < (11,):
        build.append("--stronglyTyped")
    for flag, size in (("min", options.batch.least), ("opt", options.batch.best), ("max", options.batch.most)):
        if inputs:
            build.append(f"--{flag}Shapes=" + ",".join(_shape(n, size, s) for n, s in inputs.items()))
    if options.hardware != "none":
        if options.hardware == "same-capability" and version < _SAME_CAPABILITY_SINCE:
            raise InputError("--hardware same-capability needs TensorRT 10.9")
        build.append(f"--hardwareCompatibilityLevel={_LEVELS[options.hardware]}")
    if options.timing_cache is not None:
        build.append(f"--timingCacheFile={options.timing_cache}")
    if options.workspace_mb is not None:
        build.append(f"--memPoolSize=workspace:{options.workspace_mb}")
    build += ["--profilingVerbosity=detailed", f"--exportLayerInfo={engine.with_suffix('.layers.json')}"]

    time = [f"--loadEngine={engine}", *libraries]
    if inputs:
        time.append("--shapes=" + ",".join(_shape(n, options.batch.best, s) for n, s in inputs.items()))
    time += ["--warmUp=1000", "--duration=20", f"--exportTimes={engine.with_suffix('.times.json')}"]
    if version < (11,):
        time += ["--noDataTransfers", "--useSpinWait", "--useCudaGraph"]
    return shlex.join(["trtexec", *build]), shlex.join(["trtexec", *time])


def _shape(name: str, batch: int, rest: tuple[int, ...]) -> str:
    return f"{name}:" + "x".join(map(str, (batch, *rest)))
