// Times cuBLASLt on the same product: int8 to int32, and float16, without scales, biases or quantization.
#pragma once

#include <cublasLt.h>
#include <cuda_fp16.h>

#include "device.h"

namespace bench {

// Returns the microseconds of the best algorithm that the heuristic proposes; negative where it proposes none.
inline double cublas_us(cublasLtHandle_t handle, bool int8, int m, int n, int k, int copies, int samples) {
  const cudaDataType_t in = int8 ? CUDA_R_8I : CUDA_R_16F, out = int8 ? CUDA_R_32I : CUDA_R_16F;
  const size_t element = int8 ? 1 : 2;
  cublasLtMatmulDesc_t description;
  cublasLtMatmulDescCreate(&description, int8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, int8 ? CUDA_R_32I : CUDA_R_32F);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  cublasLtMatrixLayout_t w_layout, x_layout, y_layout;  // column by column: y^T = w x^T
  cublasLtMatrixLayoutCreate(&w_layout, in, k, n, k);
  cublasLtMatrixLayoutCreate(&x_layout, in, k, m, k);
  cublasLtMatrixLayoutCreate(&y_layout, out, n, m, n);
  const size_t workspace_bytes = 32 << 20;
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                       sizeof workspace_bytes);
  cublasLtMatmulHeuristicResult_t heuristics[8];
  int count = 0;
  cublasLtMatmulAlgoGetHeuristic(handle, description, w_layout, x_layout, y_layout, y_layout, preference, 8, heuristics, &count);

  double best = -1;
  {
    Rotated w(element * n * k, copies), x(element * m * k, copies), y((int8 ? 4 : 2) * size_t(m) * n, copies);
    Rotated workspace(workspace_bytes, 1);
    require(cudaMemset(w.start, 0, w.stride * copies), "weights");
    require(cudaMemset(x.start, 0, x.stride * copies), "inputs");
    const float one = 1, zero = 0;
    const int32_t one_i = 1, zero_i = 0;
    for (int i = 0; i < count; ++i) {
      bool ran = true;
      const double us = median_us(copies, samples, [&](int copy) {
        ran &= cublasLtMatmul(handle, description, int8 ? static_cast<const void*>(&one_i) : &one, w.at<void>(copy), w_layout,
                              x.at<void>(copy), x_layout, int8 ? static_cast<const void*>(&zero_i) : &zero,
                              y.at<void>(copy), y_layout, y.at<void>(copy), y_layout, &heuristics[i].algo,
                              workspace.at<void>(0), workspace_bytes, nullptr) == CUBLAS_STATUS_SUCCESS;
      });
      if (ran && (best < 0 || us < best)) best = us;
    }
  }
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(w_layout), cublasLtMatrixLayoutDestroy(x_layout), cublasLtMatrixLayoutDestroy(y_layout);
  cublasLtMatmulDescDestroy(description);
  return best;
}

}  // namespace bench
