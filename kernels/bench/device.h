// Allocates device memory, and times launches whose inputs are not in the cache.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

namespace bench {

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

// `copies` arrays of equal size, each start aligned; launch i works on array i % copies.
struct Rotated {
  uint8_t* start = nullptr;
  size_t stride = 0;
  int copies = 0;
  Rotated(size_t bytes, int count) : stride((bytes + 255) / 256 * 256), copies(count) {
    require(cudaMalloc(reinterpret_cast<void**>(&start), stride * count), "cudaMalloc");
  }
  ~Rotated() { cudaFree(start); }
  Rotated(const Rotated&) = delete;
  Rotated& operator=(const Rotated&) = delete;
  template <class T>
  T* at(int i) const {
    return reinterpret_cast<T*>(start + stride * (i % copies));
  }
  void fill(const void* from, size_t bytes) {
    for (int i = 0; i < copies; ++i) require(cudaMemcpy(at<void>(i), from, bytes, cudaMemcpyHostToDevice), "copy");
  }
  void poison() { require(cudaMemset(start, 0xEB, stride * copies), "poison"); }
};

// Returns the median microseconds of one launch, over `samples` rounds of as many launches as there are copies.
inline double median_us(int copies, int samples, const std::function<void(int)>& launch) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "event");
  require(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int round = -3; round < samples; ++round) {  // the first three warm up
    require(cudaEventRecord(begin), "record");
    for (int i = 0; i < copies; ++i) launch(i);
    require(cudaEventRecord(end), "record");
    require(cudaEventSynchronize(end), "launch");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (round >= 0) times.push_back(ms * 1000 / static_cast<float>(copies));
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

}  // namespace bench
