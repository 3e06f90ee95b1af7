// Stands in for include/qvit/launch.cuh: kernels run to their end before this returns.
#pragma once

#include <cuda_runtime.h>

#include "qvit/qvit.h"

namespace qvit {

QvitStatus cuda_status(cudaError_t error);

// Shared memory of the smallest GPU of a family: 64 KiB on Turing, 99 KiB from sm_86 on.
inline constexpr int kSharedLimit = QVIT_EMULATED_SM < 80 ? 64 * 1024 : 99 * 1024;

template <class Params>
QvitStatus launch(void (*kernel)(Params), dim3 grid, int threads, int shared_bytes, cudaStream_t, Params params) {
  if (machine::launch_error != 0) return cuda_status(static_cast<cudaError_t>(machine::launch_error));
  if (shared_bytes > kSharedLimit) machine::violation("more shared memory than the GPU has");
  machine::run_grid({grid.x, grid.y, grid.z}, threads, shared_bytes, [&] { kernel(params); });
  return QVIT_OK;
}

inline QvitStatus zero_memory(void* p, size_t bytes, cudaStream_t) {
  std::memset(p, 0, bytes);
  return QVIT_OK;
}

}  // namespace qvit
