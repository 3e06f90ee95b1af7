// Fibers, barriers and collectives.
#include "machine.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <ucontext.h>

#include "shared_memory.h"

namespace machine {

Fiber* current = nullptr;
int launch_error = 0;
Index block_index{};

namespace {

enum class State { ready, at_collective, at_barrier, done };

constexpr size_t kStackBytes = 128 * 1024;

// A context starts each fiber once; later switches jump, which spares the two system calls of `swapcontext`.
struct Thread : Fiber {
  State state = State::done;
  bool started = false;
  ucontext_t context{};
  jmp_buf place;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
};

struct Warp {
  void* arguments[32];
  const char* name;
  int arrived;
};

std::vector<std::unique_ptr<Thread>> pool;
std::vector<Warp> warps;
const std::function<void()>* body;
jmp_buf scheduler;

[[noreturn]] void give_up(const char* why) {
  std::fprintf(stderr, "block (%u, %u): %s\n", block_index.x, block_index.y, why);
  std::abort();
}

Thread& self() { return *static_cast<Thread*>(current); }

void give_way(State state) {
  self().state = state;
  if (_setjmp(self().place) == 0) _longjmp(scheduler, 1);
}

void fiber_main() {
  for (;;) {
    (*body)();
    give_way(State::done);
  }
}

void resume(Thread& thread) {
  current = &thread;
  if (_setjmp(scheduler) != 0) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  getcontext(&thread.context);
  thread.context.uc_stack = {thread.stack.get(), 0, kStackBytes};
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, fiber_main, 0);
  setcontext(&thread.context);
}

// Runs the lanes of a warp until each of them waits for other warps or is done.
void run_warp(int warp) {
  for (bool ran = true; ran;) {
    ran = false;
    for (int lane = 0; lane < 32; ++lane) {
      Thread& thread = *pool[warp * 32 + lane];
      if (thread.state != State::ready) continue;
      resume(thread);
      ran = true;
    }
  }
  if (warps[warp].arrived != 0) give_up("lanes of a warp did not meet at a collective");
}

void run_block(int threads) {
  const int count = threads / 32;
  for (int i = 0; i < threads; ++i) pool[i]->state = State::ready;
  for (int round = 0;; ++round) {
    for (int w = 0; w < count; ++w) run_warp(round % 2 == 0 ? w : count - 1 - w);
    end_of_interval();
    int done = 0, waiting = 0;
    for (int i = 0; i < threads; ++i) {
      done += pool[i]->state == State::done;
      waiting += pool[i]->state == State::at_barrier;
    }
    if (done == threads) break;
    if (waiting != threads) give_up("a barrier was not reached by every thread");
    for (int i = 0; i < threads; ++i) pool[i]->state = State::ready;
  }
}

}  // namespace

void run_grid(Index blocks, int threads, int shared_bytes, const std::function<void()>& thread) {
  if (threads % 32 != 0) give_up("threads are no multiple of a warp");
  while (static_cast<int>(pool.size()) < threads) {
    pool.push_back(std::make_unique<Thread>());
    const int i = static_cast<int>(pool.size()) - 1;
    pool.back()->index = {static_cast<unsigned>(i), 0, 0};
    pool.back()->lane = i % 32, pool.back()->warp = i / 32;
  }
  warps.assign(threads / 32, Warp{});
  body = &thread;
  for (unsigned y = 0; y < blocks.y; ++y)
    for (unsigned x = 0; x < blocks.x; ++x) {
      block_index = {x, y, 0};
      begin_block(shared_bytes, threads);
      run_block(threads);
      end_block();
    }
  current = nullptr;
}

void barrier() { give_way(State::at_barrier); }

void collective(const char* name, void* argument, void (*together)(void* arguments[32])) {
  Warp& warp = warps[current->warp];
  if (warp.arrived == 0) warp.name = name;
  if (warp.name != name) give_up("lanes of a warp met at different collectives");
  warp.arguments[current->lane] = argument;
  if (++warp.arrived < 32) return give_way(State::at_collective);
  together(warp.arguments);
  warp.arrived = 0;
  for (int lane = 0; lane < 32; ++lane) {
    Thread& thread = *pool[current->warp * 32 + lane];
    if (thread.state == State::at_collective) thread.state = State::ready;
  }
}

uint32_t shuffle_xor(uint32_t value, int distance) {
  struct Shuffle {
    uint32_t value, received;
    int distance;
  } mine{value, 0, distance};
  collective("shuffle", &mine, [](void* arguments[32]) {
    for (int lane = 0; lane < 32; ++lane) {
      auto* to = static_cast<Shuffle*>(arguments[lane]);
      to->received = static_cast<Shuffle*>(arguments[lane ^ to->distance])->value;
    }
  });
  return mine.received;
}

}  // namespace machine
