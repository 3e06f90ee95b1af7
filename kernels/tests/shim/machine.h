// One GPU block at a time on one host thread: its threads are fibers that switch where CUDA's threads meet.
//
// What is found wrong is counted and described (`violations`), not passed over:
//   shared memory   bounds, alignment, races (one thread writes what another touches between the same two barriers)
//   copies          an asynchronous copy leaves garbage behind until its group is waited for; none may be left at the end
//   global memory   bounds (of the ranges handed to `allow_global`) and alignment of vector accesses
//   bank conflicts  counted apart, because they are slow and not wrong
// Lanes of a warp that do not meet at a collective, and barriers that not every thread reaches, end the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace machine {

struct Index {
  unsigned x, y, z;
};

struct Fiber {
  Index index;  // threadIdx
  int lane, warp;
};

extern Fiber* current;
extern Index block_index;

void run_grid(Index blocks, int threads, int shared_bytes, const std::function<void()>& thread);

// Meeting points.
void barrier();
uint32_t shuffle_xor(uint32_t value, int distance);
void collective(const char* name, void* argument, void (*together)(void* arguments[32]));

// Shared memory, addresses in bytes from its start.
void read_shared(uint32_t address, void* to, int bytes);
void write_shared(uint32_t address, const void* from, int bytes);
void read_shared_row(int lane, uint32_t address, void* to);  // by ldmatrix on behalf of `lane`
void start_copy(uint32_t address, const void* from, bool valid);
void commit_copies();
void wait_for_copies(int groups_left);

void check_global(const void* p, size_t bytes, size_t alignment);
void allow_global(const void* p, size_t bytes);
void forget_global();

void violation(const std::string& what);
extern int launch_error;  // what launches end with instead of running; 0 for none

struct Findings {
  int64_t violations, bank_conflicts, shared_accesses;
  std::string first;
};
Findings take_findings();  // and starts anew

}  // namespace machine
