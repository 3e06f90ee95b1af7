#include "qvit/layernorm_quantize.cuh"

#include "qvit/check.h"
#include "qvit/launch.cuh"

extern "C" int qvit_layernorm_quantize(const QvitLayerNorm* norm, void* stream) {
  using namespace qvit;
  const QvitLayerNorm& l = *norm;
  if (l.m <= 0 || l.c <= 0) return QVIT_BAD_SHAPE;
  if (!is_float(l.x_type) || !is_codes(l.y_type)) return QVIT_BAD_TYPE;
  if (const QvitStatus status = check_grid(l.grid, l.y_type); status != QVIT_OK) return status;
  if (!std::isfinite(l.epsilon) || l.epsilon <= 0) return QVIT_BAD_SCALE;
  if (l.x_stride < l.c || l.x_stride % elements_of_16_bytes(l.x_type) != 0) return QVIT_BAD_STRIDE;
  if (l.y_stride < l.c || l.y_stride % elements_of_16_bytes(l.y_type) != 0) return QVIT_BAD_STRIDE;
  if (!aligned(l.x) || !aligned(l.gamma) || !aligned(l.beta) || !aligned(l.y)) return QVIT_MISALIGNED;
  const LayerNormParams p{l.x,       l.gamma,    l.beta,   l.y,       l.m,
                          l.c,       l.x_stride, l.y_stride, l.y_type, l.epsilon, quantizer(l.grid)};
  const dim3 grid((static_cast<unsigned>(l.m) + kLayerNormWarps - 1) / kLayerNormWarps);
  const auto kernel = l.x_type == QVIT_FLOAT16 ? &layernorm_quantize<__half> : &layernorm_quantize<float>;
  return launch(kernel, grid, kLayerNormWarps * 32, 0, static_cast<cudaStream_t>(stream), p);
}
