// The C interface of the quantized linear layer: checks, tactics, workspace, choice of the kernel.
#include "qvit/check.h"
#include "qvit/qlinear_launch.cuh"

namespace qvit {
namespace {

constexpr int kLargestK = 65536;  // K * 128 * 128 stays within int32

QvitStatus check(const QvitLinear& l) {
  if (l.m <= 0 || l.n <= 0 || l.k <= 0 || l.k > kLargestK) return QVIT_BAD_SHAPE;
  if (!valid_weight_bits(l.weight_bits)) return QVIT_BAD_BITS;
  if (!is_float(l.x_type) && !is_codes(l.x_type)) return QVIT_BAD_TYPE;
  if (!is_float(l.y_type) && !is_codes(l.y_type)) return QVIT_BAD_TYPE;
  if (const QvitStatus status = check_grid(l.x_grid, l.x_type); status != QVIT_OK) return status;
  if (is_codes(l.y_type))
    if (const QvitStatus status = check_grid(l.y_grid, l.y_type); status != QVIT_OK) return status;
  if (l.x_stride < l.k || l.x_stride % elements_of_16_bytes(l.x_type) != 0) return QVIT_BAD_STRIDE;
  if (l.y_stride < l.n || (l.y_type == QVIT_CODES4 && l.y_stride % 32 != 0)) return QVIT_BAD_STRIDE;
  if (!aligned(l.x) || !aligned(l.weight) || !aligned(l.weight_scale) || !aligned_or_null(l.bias) || !aligned(l.y))
    return QVIT_MISALIGNED;
  return QVIT_OK;
}

QvitTactic tactic_of(int id) {
  constexpr QvitTactic tiles[kTiles] = {describe<Tile0>(1), describe<Tile1>(1), describe<Tile2>(1),
                                        describe<Tile3>(1), describe<Tile4>(1), describe<Tile5>(1)};
  QvitTactic tactic = tiles[kTactics[id].tile];
  tactic.split_k = kTactics[id].split_k;
  return tactic;
}

int64_t tile_count(const QvitLinear& l, const QvitTactic& t) {
  return round_up(l.m, t.tile_m) / t.tile_m * (round_up(l.n, t.tile_n) / t.tile_n);
}

LinearLauncher launcher(const QvitLinear& l, int tile) {
  const bool narrow = is_codes(l.x_type) ? l.x_type == QVIT_CODES4 : l.x_grid.bits == 4;
  const SourceKind source = l.x_type == QVIT_FLOAT16   ? SourceKind::half
                            : l.x_type == QVIT_FLOAT32 ? SourceKind::single
                                                       : SourceKind::codes;
  switch (l.weight_bits) {
    case 4:
      return narrow ? linear_of<4, 4>(source, tile) : linear_of<4, 8>(source, tile);
    case 6:
      return narrow ? linear_of<6, 4>(source, tile) : linear_of<6, 8>(source, tile);
    default:
      return narrow ? linear_of<8, 4>(source, tile) : linear_of<8, 8>(source, tile);
  }
}

}  // namespace
}  // namespace qvit

extern "C" {

int qvit_linear_tactics(void) { return qvit::kTacticCount; }

int qvit_linear_tactic(int tactic, QvitTactic* what) {
  if (tactic < 0 || tactic >= qvit::kTacticCount) return QVIT_UNKNOWN_TACTIC;
  *what = qvit::tactic_of(tactic);
  return QVIT_OK;
}

int64_t qvit_linear_workspace(const QvitLinear* linear, int tactic) {
  if (linear->m <= 0 || linear->n <= 0 || linear->k <= 0) return -QVIT_BAD_SHAPE;
  QvitTactic t;
  if (qvit_linear_tactic(tactic, &t) != QVIT_OK) return -QVIT_UNKNOWN_TACTIC;
  if (t.split_k == 1) return 0;
  const int64_t tiles = qvit::tile_count(*linear, t);
  return tiles * t.tile_m * t.tile_n * 4 + qvit::round_up(tiles * 4, 16);
}

int qvit_linear(const QvitLinear* linear, int tactic, void* workspace, int64_t workspace_bytes, void* stream) {
  using namespace qvit;
  if (const QvitStatus status = check(*linear); status != QVIT_OK) return status;
  const int64_t needed = qvit_linear_workspace(linear, tactic);
  if (needed < 0) return static_cast<int>(-needed);
  if (needed > workspace_bytes) return QVIT_WORKSPACE_TOO_SMALL;
  if (needed > 0 && !aligned(workspace)) return QVIT_MISALIGNED;
  const QvitTactic t = tactic_of(tactic);
  const int64_t tiles = tile_count(*linear, t);
  if (tiles > INT32_MAX) return QVIT_BAD_SHAPE;

  LinearParams p{};
  p.x = linear->x, p.weight = static_cast<const uint8_t*>(linear->weight), p.y = linear->y;
  p.weight_scale = linear->weight_scale, p.bias = linear->bias;
  p.m = linear->m, p.n = linear->n, p.k = linear->k;
  p.x_stride = linear->x_stride, p.y_stride = linear->y_stride;
  p.y_type = linear->y_type, p.gelu = linear->gelu != 0;
  p.x_scale = linear->x_grid.scale;
  p.x_quantizer = quantizer(linear->x_grid);
  if (is_codes(linear->y_type)) p.y_quantizer = quantizer(linear->y_grid);
  p.tiles_m = static_cast<int>(round_up(p.m, t.tile_m) / t.tile_m);
  p.tiles_n = static_cast<int>(round_up(p.n, t.tile_n) / t.tile_n);
  p.split_k = t.split_k;
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (t.split_k > 1) {
    p.partial = static_cast<int32_t*>(workspace);
    p.arrived = reinterpret_cast<unsigned*>(p.partial + tiles * t.tile_m * t.tile_n);
    if (const QvitStatus status = zero_memory(workspace, static_cast<size_t>(needed), queue); status != QVIT_OK)
      return status;
  }
  return launcher(*linear, kTactics[tactic].tile)(p, queue);
}
}
