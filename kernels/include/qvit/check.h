// Checks the arguments of all kernels, and converts a grid to the kernels' form.
#pragma once

#include <cmath>
#include <cstdint>

#include "qvit/quantize.cuh"
#include "qvit/qvit.h"

namespace qvit {

inline bool aligned(const void* p) { return p != nullptr && reinterpret_cast<uintptr_t>(p) % 16 == 0; }
inline bool aligned_or_null(const void* p) { return p == nullptr || aligned(p); }

inline bool is_float(int type) { return type == QVIT_FLOAT16 || type == QVIT_FLOAT32; }
inline bool is_codes(int type) { return type == QVIT_CODES8 || type == QVIT_CODES4; }

// How many elements 16 bytes hold; row strides are multiples of it.
inline int elements_of_16_bytes(int type) {
  return type == QVIT_FLOAT32 ? 4 : type == QVIT_FLOAT16 ? 8 : type == QVIT_CODES8 ? 16 : 32;
}

// Whether `quantize` is exact for a scale: neither 1 / scale nor a remainder is subnormal or overflows.
inline bool valid_scale(float scale) { return std::isfinite(scale) && scale >= 1e-30f && scale <= 1e30f; }

// Checks a grid whose codes are written as, or read from, `type`.
inline QvitStatus check_grid(const QvitGrid& grid, int type) {
  if (grid.bits != 4 && grid.bits != 6 && grid.bits != 8) return QVIT_BAD_BITS;
  if (type == QVIT_CODES4 && grid.bits != 4) return QVIT_BAD_BITS;
  if (!valid_scale(grid.scale) || !std::isfinite(grid.shift)) return QVIT_BAD_SCALE;
  return QVIT_OK;
}

inline Quantizer quantizer(const QvitGrid& grid) {
  const int half = 1 << (grid.bits - 1);
  return {grid.scale, 1.0f / grid.scale, grid.shift, 256.0f * grid.scale, static_cast<float>(-half),
          static_cast<float>(half - 1)};
}

}  // namespace qvit
