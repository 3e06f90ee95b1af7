// Shared memory with a memory of who touched what, asynchronous copies, bank conflicts; and the bounds of global memory.
#include "shared_memory.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "machine.h"

namespace machine {
namespace {

constexpr int kNobody = -1, kMany = -2;

struct Word {
  int writer = kNobody, reader = kNobody;  // since the last barrier
};

struct Access {
  int lane, bytes;
  bool write;
  uint32_t address;
};

struct Copy {
  uint32_t address;
  const void* from;
  bool valid;
};

std::vector<uint8_t> memory;
std::vector<Word> words;
std::vector<std::deque<std::vector<Copy>>> groups;        // of every thread; the last is still open
std::vector<std::vector<std::vector<Access>>> accesses;   // [warp][how many the lane made before in this interval]
std::vector<int> made;                                    // of every thread, in this interval
std::vector<std::pair<const uint8_t*, size_t>> global;
Findings findings{};

int self() { return static_cast<int>(current->index.x); }

bool within(uint32_t address, int bytes) {
  if (address % bytes != 0) {
    violation("misaligned access to shared memory");
    return false;
  }
  if (address + bytes > memory.size()) {
    violation("access beyond shared memory: " + std::to_string(address) + " of " + std::to_string(memory.size()));
    return false;
  }
  return true;
}

void touch(uint32_t address, int bytes, bool write, int thread) {
  for (uint32_t w = address / 4; w < (address + bytes) / 4; ++w) {
    Word& word = words[w];
    const bool other_wrote = word.writer != kNobody && word.writer != thread;
    const bool other_read = word.reader != kNobody && word.reader != thread;
    if (other_wrote || (write && other_read))
      violation("race in shared memory at " + std::to_string(4 * w) + (write ? " (write)" : " (read)"));
    if (write) word.writer = thread;
    if (!write) word.reader = word.reader == kNobody || word.reader == thread ? thread : kMany;
  }
}

void log_access(uint32_t address, int bytes, bool write, int thread) {
  auto& of_warp = accesses[thread / 32];
  const size_t turn = made[thread]++;
  if (of_warp.size() <= turn) of_warp.resize(turn + 1);
  of_warp[turn].push_back({thread % 32, bytes, write, address});
}

// Lanes are served together up to 128 bytes: 32 of 4 bytes, 8 of 16. Each further pass over a bank is a conflict.
int64_t conflicts(const std::vector<Access>& together) {
  int64_t extra = 0;
  const int bytes = together.front().bytes, lanes = 128 / bytes;
  for (int first = 0; first < 32; first += lanes) {
    std::set<uint32_t> rows[32];
    size_t passes = 1;
    for (const Access& a : together)
      if (a.lane >= first && a.lane < first + lanes && a.bytes == bytes)
        for (uint32_t at = a.address; at < a.address + a.bytes; at += 4) {
          auto& of_bank = rows[at / 4 % 32];
          of_bank.insert(at);
          passes = std::max(passes, of_bank.size());
        }
    extra += static_cast<int64_t>(passes) - 1;
  }
  return extra;
}

}  // namespace

void begin_block(int shared_bytes, int threads) {
  memory.assign(shared_bytes, 0xA5);
  words.assign((shared_bytes + 3) / 4, Word{});
  groups.assign(threads, {{}});
  accesses.assign(threads / 32, {});
  made.assign(threads, 0);
}

void end_of_interval() {
  std::fill(words.begin(), words.end(), Word{});
  for (auto& of_warp : accesses) {
    for (const auto& together : of_warp) findings.bank_conflicts += conflicts(together);
    findings.shared_accesses += static_cast<int64_t>(of_warp.size());
    of_warp.clear();
  }
  std::fill(made.begin(), made.end(), 0);
}

void end_block() {
  for (const auto& of_thread : groups)
    for (const auto& group : of_thread)
      if (!group.empty()) return violation("an asynchronous copy was never waited for");
}

void read_shared(uint32_t address, void* to, int bytes) {
  std::memset(to, 0, bytes);
  if (!within(address, bytes)) return;
  touch(address, bytes, false, self());
  log_access(address, bytes, false, self());
  std::memcpy(to, &memory[address], bytes);
}

void read_shared_row(int lane, uint32_t address, void* to) {
  std::memset(to, 0, 16);
  if (!within(address, 16)) return;
  const int thread = self() / 32 * 32 + lane;
  touch(address, 16, false, thread);
  log_access(address, 16, false, thread);
  std::memcpy(to, &memory[address], 16);
}

void write_shared(uint32_t address, const void* from, int bytes) {
  if (!within(address, bytes)) return;
  touch(address, bytes, true, self());
  log_access(address, bytes, true, self());
  std::memcpy(&memory[address], from, bytes);
}

void start_copy(uint32_t address, const void* from, bool valid) {
  if (valid) check_global(from, 16, 16);
  if (!within(address, 16)) return;
  touch(address, 16, true, self());
  log_access(address, 16, true, self());
  std::memset(&memory[address], 0x5C, 16);
  groups[self()].back().push_back({address, from, valid});
}

void commit_copies() { groups[self()].emplace_back(); }

void wait_for_copies(int groups_left) {
  auto& mine = groups[self()];
  while (static_cast<int>(mine.size()) - 1 > groups_left) {
    for (const Copy& copy : mine.front()) {
      touch(copy.address, 16, true, self());
      if (copy.valid)
        std::memcpy(&memory[copy.address], copy.from, 16);
      else
        std::memset(&memory[copy.address], 0, 16);
    }
    mine.pop_front();
  }
}

void check_global(const void* p, size_t bytes, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) violation("misaligned access to global memory");
  if (global.empty()) return;
  const auto* start = static_cast<const uint8_t*>(p);
  for (const auto& [from, size] : global)
    if (start >= from && start + bytes <= from + size) return;
  violation("access outside the arrays in global memory");
}

void allow_global(const void* p, size_t bytes) { global.emplace_back(static_cast<const uint8_t*>(p), bytes); }
void forget_global() { global.clear(); }

void violation(const std::string& what) {
  if (findings.violations++ == 0) findings.first = what;
}

Findings take_findings() { return std::exchange(findings, Findings{}); }

}  // namespace machine
