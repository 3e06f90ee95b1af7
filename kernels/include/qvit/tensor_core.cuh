// Integer products of one warp, 16 x 8 x 32, on every GPU from Turing on; and asynchronous copies, or what replaces them.
//
// Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k32"), with g = lane / 4, t = lane % 4 and four codes a register:
//   a[0] row g      k 4t..4t+3      a[2] row g      k 16+4t..
//   a[1] row g + 8  k 4t..          a[3] row g + 8  k 16+4t..
//   b[0] column g   k 4t..          b[1] column g   k 16+4t..
//   d[0], d[1] row g, columns 2t, 2t+1;  d[2], d[3] row g + 8
#pragma once

#include "qvit/ptx.cuh"

namespace qvit {

QVIT_DEVICE void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if QVIT_AMPERE
  mma_m16n8k32_s8(d, a, b);
#else
  for (int half = 0; half < 2; ++half) {
    mma_m8n8k16_s8(d[0], d[1], a[2 * half], b[half]);
    mma_m8n8k16_s8(d[2], d[3], a[2 * half + 1], b[half]);
  }
#endif
}

QVIT_DEVICE void mma_u8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if QVIT_AMPERE
  mma_m16n8k32_u8s8(d, a, b);
#else
  for (int half = 0; half < 2; ++half) {
    mma_m8n8k16_u8s8(d[0], d[1], a[2 * half], b[half]);
    mma_m8n8k16_u8s8(d[2], d[3], a[2 * half + 1], b[half]);
  }
#endif
}

QVIT_DEVICE void copy_16(uint32_t shared, const void* global, bool valid) {
#if QVIT_AMPERE
  cp_async_16(shared, global, valid);
#else
  store_shared_16(shared, valid ? load_global_16(global) : uint4{0, 0, 0, 0});
#endif
}

QVIT_DEVICE void copies_commit() {
#if QVIT_AMPERE
  cp_async_commit();
#endif
}

template <int PENDING>
QVIT_DEVICE void copies_wait() {
#if QVIT_AMPERE
  cp_async_wait<PENDING>();
#endif
}

}  // namespace qvit
