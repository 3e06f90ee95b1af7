#include "qvit/softmax_log2_av.cuh"

#include "qvit/check.h"
#include "qvit/launch.cuh"

namespace qvit {
namespace {

// Smallest u = 65535 p whose code is at most q: where -steps log2(p) rounds to q, but for the last code before zero, which
// takes everything nearer to it than to 0 (probabilities.py, `log_table`).
uint32_t first_of(int code, int zero_code, int steps) {
  const double share = code == zero_code - 1 ? 0.5 * std::exp2(-static_cast<double>(code) / steps)
                                             : std::exp2(-(code + 0.5) / steps);
  return static_cast<uint32_t>(std::ceil(share * 65535.0));
}

template <int STEPS>
QvitStatus launch_attention(const LogAttentionParams& p, int type, int batch, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.queries + 63) / 64 * p.channel_tiles), static_cast<unsigned>(batch));
  const auto kernel = type == QVIT_FLOAT16 ? &softmax_log2_av<STEPS, __half> : &softmax_log2_av<STEPS, float>;
  return launch(kernel, grid, 128, LogAttentionMemory::BYTES, stream, p);
}

}  // namespace
}  // namespace qvit

extern "C" int qvit_softmax_log2_av(const QvitLogAttention* attention, void* stream) {
  using namespace qvit;
  const QvitLogAttention& a = *attention;
  if (a.batch <= 0 || a.batch > 65535 || a.queries <= 0 || a.keys <= 0 || a.keys > 65535 || a.width <= 0)
    return QVIT_BAD_SHAPE;
  if (!is_float(a.type)) return QVIT_BAD_TYPE;
  if ((a.steps != 1 && a.steps != 2) || a.bits < 2 || a.bits > 3 + a.steps) return QVIT_BAD_BITS;
  if (const QvitStatus status = check_grid(a.value_grid, QVIT_CODES8); status != QVIT_OK) return status;
  if (!valid_scale(a.largest)) return QVIT_BAD_SCALE;
  if (a.score_stride < a.keys || a.value_stride < a.width || a.out_stride < a.width) return QVIT_BAD_STRIDE;
  if (!aligned(a.scores) || !aligned(a.values) || !aligned(a.out)) return QVIT_MISALIGNED;
  LogAttentionParams p{};
  p.scores = a.scores, p.values = a.values, p.out = a.out;
  p.queries = a.queries, p.keys = a.keys, p.width = a.width;
  p.score_stride = a.score_stride, p.value_stride = a.value_stride, p.out_stride = a.out_stride;
  p.channel_tiles = (a.width + 64 / a.steps - 1) / (64 / a.steps);
  p.zero_code = (1 << a.bits) - 1;
  p.by_row = a.by_row != 0;
  p.unit = a.largest / 65535.0f;
  p.output_scale = a.largest * 0x1p-15f * a.value_grid.scale;
  p.value_quantizer = quantizer(a.value_grid);
  for (int q = 0; q < p.zero_code; ++q) p.first[q] = first_of(q, p.zero_code, a.steps);
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  return a.steps == 1 ? launch_attention<1>(p, a.type, a.batch, queue) : launch_attention<2>(p, a.type, a.batch, queue);
}
