"""NVIDIA's driver, compiled here: no GPU, but real calls with real arguments, found by the real loader."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
static char log_[4096];
static int answer(const char* name) {
  if (strlen(log_) + strlen(name) + 2 < sizeof log_) { strcat(log_, name); strcat(log_, " "); }
  const char* failing = getenv("FAILING_CALL");
  return failing && !strcmp(failing, name) ? 901 : 0;
}
const char* called(void) { return log_; }
int cuInit(unsigned flags) { log_[0] = 0; return getenv("NO_DEVICE") ? 100 : 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char* name, int size, int device) { snprintf(name, size, "Test GPU %d", device); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const char* sm = getenv("GPU_SM");
  int capability = sm ? atoi(sm) : 87;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1; return device != 7; }
int cuStreamBeginCapture_v2(void* stream, int mode) {
  return stream == (void*)0x500000000 && mode == 2 ? answer("begin") : 1; }
int cuStreamEndCapture(void* stream, void** graph) { *graph = (void*)0x600000000; return answer("end"); }
int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  *exec = (void*)0x700000000; return graph == (void*)0x600000000 && !flags ? answer("instantiate") : 1; }
int cuGraphDestroy(void* graph) { return graph == (void*)0x600000000 ? answer("destroy") : 1; }
int cuGraphLaunch(void* exec, void* stream) {
  return exec == (void*)0x700000000 && stream == (void*)0x500000000 ? answer("launch") : 1; }
int cuGraphExecDestroy(void* exec) { return exec == (void*)0x700000000 ? answer("close") : 1; }
"""
"""Environment: NO_DEVICE, GPU_SM (87 when unset), FAILING_CALL. A real handle does not fit 32 bits, nor do these."""


def compiled_driver(folder: Path) -> Path:
    """`libcuda.so.1` in `folder`, for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "cuda.c").write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=True)
    return folder / "libcuda.so.1"
