// The kernels whose machine code check_sass.py looks at, on every architecture: all pairs of widths, every source, the
// largest tile (most registers) and the smallest, and the other kernels. Not all of the product, which takes minutes.
#include "qvit/layernorm_quantize.cuh"
#include "qvit/qlinear.cuh"
#include "qvit/softmax_log2_av.cuh"

namespace qvit {

template __global__ void qlinear<4, 4, HalfSource, Tile0>(LinearParams);
template __global__ void qlinear<4, 4, CodeSource, Tile0>(LinearParams);
template __global__ void qlinear<4, 4, FloatSource, Tile4>(LinearParams);
template __global__ void qlinear<4, 8, HalfSource, Tile0>(LinearParams);
template __global__ void qlinear<4, 8, CodeSource, Tile5>(LinearParams);
template __global__ void qlinear<6, 4, HalfSource, Tile0>(LinearParams);
template __global__ void qlinear<6, 8, HalfSource, Tile0>(LinearParams);
template __global__ void qlinear<6, 8, CodeSource, Tile2>(LinearParams);
template __global__ void qlinear<8, 4, HalfSource, Tile0>(LinearParams);
template __global__ void qlinear<8, 8, HalfSource, Tile0>(LinearParams);
template __global__ void qlinear<8, 8, HalfSource, Tile1>(LinearParams);
template __global__ void qlinear<8, 8, HalfSource, Tile5>(LinearParams);
template __global__ void qlinear<8, 8, FloatSource, Tile0>(LinearParams);
template __global__ void qlinear<8, 8, FloatSource, Tile4>(LinearParams);
template __global__ void qlinear<8, 8, CodeSource, Tile0>(LinearParams);
template __global__ void qlinear<8, 8, CodeSource, Tile3>(LinearParams);

template __global__ void layernorm_quantize<__half>(LayerNormParams);
template __global__ void layernorm_quantize<float>(LayerNormParams);
template __global__ void softmax_log2_av<1, __half>(LogAttentionParams);
template __global__ void softmax_log2_av<2, float>(LogAttentionParams);

}  // namespace qvit
