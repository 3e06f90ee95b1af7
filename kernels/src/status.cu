// Statuses and the packing functions of the C interface.
#include "qvit/launch.cuh"
#include "qvit/packing.h"
#include "qvit/qvit.h"

namespace qvit {

namespace {
thread_local int last_cuda_error = 0;
}

QvitStatus cuda_status(cudaError_t error) {
  if (error == cudaSuccess) return QVIT_OK;
  last_cuda_error = static_cast<int>(error);
  cudaGetLastError();  // clears what is not sticky, so that the next call is not blamed for this one
  const bool no_code = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction;
  return no_code ? QVIT_NO_KERNEL_FOR_DEVICE : QVIT_CUDA_ERROR;
}

}  // namespace qvit

extern "C" {

int qvit_last_cuda_error(void) { return qvit::last_cuda_error; }

const char* qvit_status_string(int status) {
  switch (status) {
    case QVIT_OK: return "ok";
    case QVIT_BAD_SHAPE: return "a size is not positive or too large (K is at most 65536)";
    case QVIT_BAD_BITS: return "a width is not 4, 6 or 8 bits, or does not fit the type of its codes";
    case QVIT_BAD_STRIDE: return "a row stride is shorter than its row or no multiple of 16 bytes";
    case QVIT_MISALIGNED: return "a pointer is null or not aligned to 16 bytes";
    case QVIT_UNKNOWN_TACTIC: return "no tactic of this id";
    case QVIT_BAD_SCALE: return "a scale is not finite and positive (1e-30 to 1e30), or a shift not finite";
    case QVIT_BAD_TYPE: return "a type that this argument cannot have";
    case QVIT_WORKSPACE_TOO_SMALL: return "the workspace is smaller than the tactic needs";
    case QVIT_NO_KERNEL_FOR_DEVICE: return "the library holds no kernel for this GPU: build it for its architecture";
    case QVIT_CUDA_ERROR: return "CUDA reported an error: see qvit_last_cuda_error";
    default: return "unknown status";
  }
}

int64_t qvit_packed_bytes(int64_t n, int64_t k, int bits) {
  if (!qvit::valid_weight_bits(bits)) return -QVIT_BAD_BITS;
  if (n <= 0 || k <= 0) return -QVIT_BAD_SHAPE;
  return qvit::packed_bytes(n, k, bits);
}

int qvit_pack(const int8_t* codes, int64_t n, int64_t k, int bits, uint8_t* out) {
  if (const int64_t bytes = qvit_packed_bytes(n, k, bits); bytes < 0) return static_cast<int>(-bytes);
  return qvit::pack(codes, n, k, bits, out) ? QVIT_OK : QVIT_BAD_BITS;
}

int qvit_unpack(const uint8_t* bytes, int64_t n, int64_t k, int bits, int8_t* codes) {
  if (const int64_t size = qvit_packed_bytes(n, k, bits); size < 0) return static_cast<int>(-size);
  qvit::unpack(bytes, n, k, bits, codes);
  return QVIT_OK;
}
}
