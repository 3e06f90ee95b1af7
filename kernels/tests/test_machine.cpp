// The emulated machine itself: products against a definition without fragments, and each kind of mistake is found.
#include <cuda_runtime.h>

#include "check.h"
#include "findings.h"
#include "qvit/ptx.cuh"
#include "tensor_core.h"

namespace {

struct Found {
  int64_t violations, conflicts, accesses;
  std::string first;
};

template <class Kernel>
Found run(int threads, int shared_bytes, Kernel kernel) {
  machine::run_grid({1, 1, 1}, threads, shared_bytes, kernel);
  Found found;
  char first[256];
  emulated_findings(&found.violations, &found.conflicts, &found.accesses, first, sizeof first);
  found.first = first;
  return found;
}

int cases = 0;

void expect(const char* what, const Found& found, bool violation, const char* text, int64_t conflicts = 0) {
  check((found.violations > 0) == violation, std::string(what) + ": violations " + std::to_string(found.violations));
  check(found.first.find(text) != std::string::npos, std::string(what) + ": " + found.first);
  check(found.conflicts == conflicts, std::string(what) + ": conflicts " + std::to_string(found.conflicts));
  ++cases;
}

int thread() { return static_cast<int>(threadIdx.x); }

// Rows of A and columns of B go through shared memory and ldmatrix, as bytes of `bits`-wide codes.
void product_of(const machine::Shape& shape, Random& random) {
  const int row_bytes = shape.depth * shape.bits / 8, chunks = row_bytes / 16;
  std::vector<int> a(16 * shape.depth), b(8 * shape.depth);
  std::vector<uint8_t> memory(24 * row_bytes, 0);
  const int top = 1 << shape.bits, half = top / 2;
  for (size_t i = 0; i < a.size() + b.size(); ++i) {
    const bool of_a = i < a.size();
    const bool is_unsigned = of_a && shape.unsigned_a;
    const int code = random.below(top) - (is_unsigned ? 0 : half);
    (of_a ? a[i] : b[i - a.size()]) = code;
    const size_t bit = i * shape.bits;
    memory[bit / 8] = static_cast<uint8_t>(memory[bit / 8] | (code & (top - 1)) << bit % 8);
  }
  std::vector<int> d(16 * 8, -1);
  const auto found = run(32, static_cast<int>(memory.size()), [&] {
    const int lane = thread();
    for (size_t i = lane * 4; i < memory.size(); i += 128) {
      uint32_t word;
      std::memcpy(&word, &memory[i], 4);
      machine::write_shared(static_cast<uint32_t>(i), &word, 4);
    }
    __syncthreads();
    uint32_t x[4], w[4];
    int sums[4] = {};
    if (shape.rows == 16) {
      machine::ldmatrix(x, lane % 16 * row_bytes + lane / 16 * 16);
      machine::ldmatrix(w, (16 + lane % 8) * row_bytes + lane / 8 % chunks * 16);
      machine::mma(shape, sums, x, w);
    } else {  // rows 0..7 and 8..15 one after the other
      machine::ldmatrix(x, lane % 16 * row_bytes);
      machine::ldmatrix(w, (16 + lane % 8) * row_bytes);
      machine::mma(shape, sums, &x[0], &w[0]);
      machine::mma(shape, sums + 2, &x[1], &w[0]);
    }
    for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
  });
  check(found.violations == 0, "product: " + found.first);
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n) {
      int sum = 0;
      for (int k = 0; k < shape.depth; ++k) sum += a[m * shape.depth + k] * b[n * shape.depth + k];
      check(d[m * 8 + n] == sum, "product of " + std::to_string(shape.depth) + " codes of " + std::to_string(shape.bits));
    }
  ++cases;
}

}  // namespace

int main() {
  Random random{3};
  for (int i = 0; i < 5; ++i)
    for (const auto& shape : {machine::m16n8k32_s8, machine::m16n8k32_u8s8, machine::m8n8k16_s8, machine::m8n8k16_u8s8,
                              machine::m16n8k64_s4})
      product_of(shape, random);

  const uint32_t word = 7;
  uint32_t into[4];
  alignas(16) const uint8_t source[64] = {1, 2, 3};
  expect("a barrier between write and read", run(64, 256, [&] {
           machine::write_shared(thread() * 4, &word, 4);
           __syncthreads();
           machine::read_shared((63 - thread()) * 4, into, 4);
         }), false, "");
  expect("no barrier between write and read", run(64, 256, [&] {
           machine::write_shared(thread() * 4, &word, 4);
           machine::read_shared((63 - thread()) * 4, into, 4);
         }), true, "race");
  expect("two writers", run(64, 256, [&] { machine::write_shared(thread() % 32 * 4, &word, 4); }), true, "race");
  expect("a read overwritten", run(64, 256, [&] {
           if (thread() < 32) machine::read_shared(thread() * 4, into, 4);
           if (thread() >= 32) machine::write_shared(thread() % 32 * 4, &word, 4);
         }), true, "race");
  expect("beyond shared memory", run(32, 124, [&] { machine::write_shared(thread() * 4, &word, 4); }), true, "beyond");
  expect("misaligned", run(32, 256, [&] { machine::read_shared(thread() * 4 + 2, into, 4); }), true, "misaligned");
  expect("a stride of two words", run(32, 256, [&] { machine::write_shared(thread() * 8, &word, 4); }), false, "", 1);
  expect("rows of 64 bytes", run(32, 2048, [&] {
           uint32_t r[4];
           machine::ldmatrix(r, thread() * 64);
         }), false, "", 4 * 3);
  expect("rows of 16 bytes", run(32, 512, [&] {
           uint32_t r[4];
           machine::ldmatrix(r, thread() * 16);
         }), false, "");
  uint32_t early[32][4] = {}, late[32][4] = {};
  expect("a copy waited for", run(32, 512, [&] {
           qvit::cp_async_16(thread() * 16, source, true);
           qvit::cp_async_commit();
           machine::read_shared(thread() * 16, early[thread()], 16);
           qvit::cp_async_wait<0>();
           machine::read_shared(thread() * 16, late[thread()], 16);
         }), false, "");
  check(early[31][0] != late[31][0] && late[31][0] == 0x030201u, "a copy shows before it is waited for");
  expect("a copy not waited for", run(32, 512, [&] {
           qvit::cp_async_16(thread() * 16, source, true);
           qvit::cp_async_commit();
         }), true, "never waited");
  emulated_allow(source, 32);
  expect("beyond an array", run(32, 16, [&] {
           if (thread() == 0) qvit::load_global_16(source + 32);
         }), true, "outside the arrays");
  expect("misaligned in global memory", run(32, 16, [&] {
           if (thread() == 0) qvit::load_global_16(source + 4);
         }), true, "misaligned");
  emulated_forget();
  return finish("machine", cases);
}
