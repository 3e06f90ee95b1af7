// Stands in for include/qvit/ptx.cuh: the same functions, on the emulated machine.
#pragma once

#include <cuda_runtime.h>

#include "qvit/arch.cuh"
#include "tensor_core.h"

namespace qvit {

inline uint32_t shared_base() { return 0; }

inline uint4 load_global_16(const void* p) {
  machine::check_global(p, 16, 16);
  uint4 v;
  std::memcpy(&v, p, 16);
  return v;
}
inline void store_global_16(void* p, uint4 v) {
  machine::check_global(p, 16, 16);
  std::memcpy(p, &v, 16);
}
inline void store_global_8(void* p, uint2 v) {
  machine::check_global(p, 8, 8);
  std::memcpy(p, &v, 8);
}

inline void store_shared_16(uint32_t a, uint4 v) { machine::write_shared(a, &v, 16); }
inline uint32_t load_shared_4(uint32_t a) {
  uint32_t v;
  machine::read_shared(a, &v, 4);
  return v;
}
inline void store_shared_4(uint32_t a, uint32_t v) { machine::write_shared(a, &v, 4); }

inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t a) { machine::ldmatrix(r, a); }

// An architecture that lacks an instruction lacks its function, as with the real header.
#if QVIT_AMPERE
inline void cp_async_16(uint32_t shared, const void* global, bool valid) { machine::start_copy(shared, global, valid); }
inline void cp_async_commit() { machine::commit_copies(); }
template <int PENDING>
void cp_async_wait() {
  machine::wait_for_copies(PENDING);
}
inline void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  machine::mma(machine::m16n8k32_s8, d, a, b);
}
inline void mma_m16n8k32_u8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  machine::mma(machine::m16n8k32_u8s8, d, a, b);
}
#else
inline void mma_m8n8k16(const machine::Shape& shape, int& d0, int& d1, uint32_t a, uint32_t b) {
  int d[2] = {d0, d1};
  machine::mma(shape, d, &a, &b);
  d0 = d[0], d1 = d[1];
}
inline void mma_m8n8k16_s8(int& d0, int& d1, uint32_t a, uint32_t b) {
  mma_m8n8k16(machine::m8n8k16_s8, d0, d1, a, b);
}
inline void mma_m8n8k16_u8s8(int& d0, int& d1, uint32_t a, uint32_t b) {
  mma_m8n8k16(machine::m8n8k16_u8s8, d0, d1, a, b);
}
#endif
#if QVIT_NATIVE_S4
inline void mma_m16n8k64_s4(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  machine::mma(machine::m16n8k64_s4, d, a, b);
}
#endif

}  // namespace qvit
