// Instantiates the kernels of one pair of widths, for a translation unit `src/qlinear_w*a*.cu`.
#pragma once

#include "qvit/launch.cuh"
#include "qvit/qlinear.cuh"

namespace qvit {

using LinearLauncher = QvitStatus (*)(const LinearParams&, cudaStream_t);

enum class SourceKind { half, single, codes };

template <int W_BITS, int A_BITS, class Source, class T>
QvitStatus launch_linear(const LinearParams& p, cudaStream_t stream) {
  using Memory = StageMemory<W_BITS, A_BITS, T>;
  const dim3 grid(static_cast<unsigned>(p.tiles_m) * static_cast<unsigned>(p.tiles_n), static_cast<unsigned>(p.split_k));
  return launch(&qlinear<W_BITS, A_BITS, Source, T>, grid, T::THREADS, T::STAGES * Memory::BYTES, stream, p);
}

template <int W_BITS, int A_BITS, class Source>
LinearLauncher linear_of_tile(int tile) {
  constexpr LinearLauncher launchers[kTiles] = {
      &launch_linear<W_BITS, A_BITS, Source, Tile0>, &launch_linear<W_BITS, A_BITS, Source, Tile1>,
      &launch_linear<W_BITS, A_BITS, Source, Tile2>, &launch_linear<W_BITS, A_BITS, Source, Tile3>,
      &launch_linear<W_BITS, A_BITS, Source, Tile4>, &launch_linear<W_BITS, A_BITS, Source, Tile5>};
  return launchers[tile];
}

template <int W_BITS, int A_BITS>
LinearLauncher linear_of(SourceKind source, int tile) {
  switch (source) {
    case SourceKind::half:
      return linear_of_tile<W_BITS, A_BITS, HalfSource>(tile);
    case SourceKind::single:
      return linear_of_tile<W_BITS, A_BITS, FloatSource>(tile);
    default:
      return linear_of_tile<W_BITS, A_BITS, CodeSource>(tile);
  }
}

// A_BITS 8 serves 6-bit activations as well: their codes lie in bytes and only the grid's ends differ.
extern template LinearLauncher linear_of<4, 4>(SourceKind, int);
extern template LinearLauncher linear_of<4, 8>(SourceKind, int);
extern template LinearLauncher linear_of<6, 4>(SourceKind, int);
extern template LinearLauncher linear_of<6, 8>(SourceKind, int);
extern template LinearLauncher linear_of<8, 4>(SourceKind, int);
extern template LinearLauncher linear_of<8, 8>(SourceKind, int);

}  // namespace qvit
