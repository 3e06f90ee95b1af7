// Checks that print what differs, and random numbers that are the same everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

inline int failures = 0;

inline bool check(bool ok, const std::string& what) {
  if (ok) return true;
  if (++failures <= 20) std::fprintf(stderr, "FAILED %s\n", what.c_str());
  return false;
}

inline int finish(const char* name, int cases) {
  std::printf("%s: %d cases, %d failures\n", name, cases, failures);
  return failures == 0 ? 0 : 1;
}

struct Random {  // splitmix64
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  float unit() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  float normal() {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += unit();
    return sum;
  }
};

// 16-byte aligned memory whose first `count` elements are the array; the rest, and the start, hold a known byte.
template <class T>
struct Array {
  static constexpr size_t kGuard = 64;
  static constexpr uint8_t kPoison = 0xEB;
  size_t count;
  std::vector<uint8_t> bytes;
  explicit Array(size_t n) : count(n), bytes(n * sizeof(T) + 3 * kGuard, kPoison) {}
  T* data() {
    const auto start = reinterpret_cast<uintptr_t>(bytes.data()) + kGuard;
    return reinterpret_cast<T*>((start + 15) / 16 * 16);
  }
  T& operator[](size_t i) { return data()[i]; }
  size_t size_bytes() const { return count * sizeof(T); }
  bool poisoned(size_t i) {
    const auto* p = reinterpret_cast<const uint8_t*>(data() + i);
    for (size_t b = 0; b < sizeof(T); ++b)
      if (p[b] != kPoison) return false;
    return true;
  }
  bool guards_intact() {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(data());
    for (const uint8_t* p = bytes.data(); p < bytes.data() + bytes.size(); ++p)
      if ((p < from || p >= from + size_bytes()) && *p != kPoison) return false;
    return true;
  }
};
