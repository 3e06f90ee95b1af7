// Starts a kernel and turns CUDA's errors into statuses. The host tests replace this header, too.
#pragma once

#include <cuda_runtime.h>

#include "qvit/qvit.h"

namespace qvit {

QvitStatus cuda_status(cudaError_t error);  // and remembers it for qvit_last_cuda_error

template <class Params>
QvitStatus launch(void (*kernel)(Params), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, Params params) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return cuda_status(error);
  }
  void* arguments[] = {&params};
  return cuda_status(
      cudaLaunchKernel(function, grid, dim3(threads), arguments, static_cast<size_t>(shared_bytes), stream));
}

inline QvitStatus zero_memory(void* p, size_t bytes, cudaStream_t stream) {
  return cuda_status(cudaMemsetAsync(p, 0, bytes, stream));
}

}  // namespace qvit
