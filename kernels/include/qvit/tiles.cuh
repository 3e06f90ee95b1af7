// The tile shapes a GEMM can be cut into, and the tactics made of them. The order is the id: append, never reorder,
// because engines store ids.
#pragma once

#include "qvit/qvit.h"

namespace qvit {

// A block computes TILE_M x TILE_N outputs, each of its warps WARP_M x WARP_N, TILE_K codes a step, STAGES steps in flight.
template <int TILE_M, int TILE_N, int TILE_K, int WARP_M, int WARP_N, int STAGES_>
struct Tile {
  static constexpr int M = TILE_M, N = TILE_N, K = TILE_K, WM = WARP_M, WN = WARP_N, STAGES = STAGES_;
  static constexpr int WARPS = (TILE_M / WARP_M) * (TILE_N / WARP_N);
  static constexpr int THREADS = WARPS * 32;
  static_assert(TILE_M % WARP_M == 0 && TILE_N % WARP_N == 0 && TILE_K % 64 == 0);
  static_assert(WARP_M % 16 == 0 && WARP_N % 32 == 0, "the epilogue writes 32 columns of 16 rows at a time");
};

using Tile0 = Tile<128, 128, 64, 32, 64, 3>;
using Tile1 = Tile<128, 64, 64, 32, 32, 3>;
using Tile2 = Tile<64, 128, 64, 32, 64, 3>;
using Tile3 = Tile<64, 64, 64, 32, 32, 4>;
using Tile4 = Tile<64, 64, 128, 32, 32, 3>;
using Tile5 = Tile<32, 64, 128, 16, 32, 3>;
constexpr int kTiles = 6;

struct Tactic {
  int tile, split_k;  // the sums of split_k parts of K are added up as integers, so the result is the same
};

constexpr Tactic kTactics[] = {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {3, 2}, {3, 4}, {5, 2}, {5, 4}, {5, 8}};
constexpr int kTacticCount = sizeof(kTactics) / sizeof(kTactics[0]);

template <class T>
constexpr QvitTactic describe(int split_k) {
  return {T::M, T::N, T::K, T::WARPS, T::STAGES, split_k};
}

}  // namespace qvit
