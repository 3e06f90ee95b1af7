// The parameters of a `qlinear` kernel.
#pragma once

#include <cstdint>

#include "qvit/quantize.cuh"

namespace qvit {

struct LinearParams {
  const void* x;
  const uint8_t* weight;
  const float* weight_scale;
  const float* bias;
  void* y;
  int m, n, k;
  int x_stride, y_stride;
  int y_type, gelu;
  float x_scale;
  Quantizer x_quantizer, y_quantizer;
  int tiles_m, tiles_n;
  int split_k;
  int32_t* partial;   // [tiles][TILE_M * TILE_N] sums of the parts of K, zero before the launch
  unsigned* arrived;  // [tiles] blocks that have added theirs, zero before the launch
};

}  // namespace qvit
