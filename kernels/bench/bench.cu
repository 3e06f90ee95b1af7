// Checks, then times every tactic of every width on the linear layers of DeiT and Swin, next to cuBLASLt.
//
//     bench_qlinear > qlinear.json        table on standard error; exit code 1 when an output is wrong
//
// Each output is compared, element by element, with plain loops on the GPU, on random inputs and poisoned memory.
#include "cublas.h"
#include "qvit/packing.h"
#include "qvit/qvit.h"
#include "shapes.h"

#include <cmath>
#include <random>
#include <string>

namespace bench {
namespace {

constexpr int kSamples = 21;

// Counts the elements of y that differ from the result of the unpacked codes.
__global__ void count_wrong(const __half* x, const int8_t* w, const float* scale, const float* bias, const __half* y, int m,
                            int n, int k, float x_scale, int bits, unsigned long long* wrong) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= int64_t(m) * n) return;
  const int row = int(i / n), column = int(i % n);
  const float half = float(1 << (bits - 1));
  int sum = 0;
  for (int j = 0; j < k; ++j) {
    const float code = rintf(__fdiv_rn(__half2float(x[int64_t(row) * k + j]), x_scale));
    sum += int(fminf(fmaxf(code, -half), half - 1)) * w[int64_t(column) * k + j];
  }
  const float value = __fadd_rn(__fmul_rn(float(sum), __fmul_rn(x_scale, scale[column])), bias[column]);
  if (__half_as_ushort(y[i]) != __half_as_ushort(__float2half_rn(value))) atomicAdd(wrong, 1ull);
}

struct Best {
  int tactic = -1;
  double us = 0;
};

struct Device {
  cudaDeviceProp properties;
  double bytes_per_us;
};

Device device() {
  Device d;
  require(cudaGetDeviceProperties(&d.properties, 0), "device");
  int clock_khz = 0, bus_bits = 0;
  require(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, 0), "memory clock");
  require(cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, 0), "memory bus");
  d.bytes_per_us = 2.0 * clock_khz * 1e3 * bus_bits / 8 / 1e6;  // two transfers a cycle
  return d;
}

// Returns the fastest tactic; exits when any tactic is wrong.
Best run(int m, int n, int k, int w_bits, int a_bits, int copies, std::mt19937& random, std::string& tactics) {
  std::vector<__half> x(size_t(m) * k);
  std::vector<int8_t> codes(size_t(n) * k);
  std::vector<float> scale(n), bias(n);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> code(-(1 << (w_bits - 1)), (1 << (w_bits - 1)) - 1);
  for (auto& v : x) v = __float2half_rn(normal(random));
  for (auto& c : codes) c = int8_t(code(random));
  for (int i = 0; i < n; ++i) scale[i] = 0.002f * (1 + std::fabs(normal(random))), bias[i] = normal(random);
  std::vector<uint8_t> packed(qvit::packed_bytes(n, k, w_bits));
  if (!qvit::pack(codes.data(), n, k, w_bits, packed.data())) std::exit(2);

  Rotated gx(x.size() * 2, copies), gw(packed.size(), copies), gy(size_t(m) * n * 2, copies);
  Rotated gs(n * 4, 1), gb(n * 4, 1), gc(codes.size(), 1), wrong(8, 1);
  gx.fill(x.data(), x.size() * 2), gw.fill(packed.data(), packed.size());
  gs.fill(scale.data(), n * 4), gb.fill(bias.data(), n * 4), gc.fill(codes.data(), codes.size());

  QvitLinear l{};
  l.weight_scale = gs.at<float>(0), l.bias = gb.at<float>(0);
  l.m = m, l.n = n, l.k = k, l.x_stride = k, l.y_stride = n;
  l.weight_bits = w_bits, l.x_grid = {6.0f / float(1 << a_bits), 0, a_bits}, l.y_grid = l.x_grid;
  Best best;
  for (int tactic = 0; tactic < qvit_linear_tactics(); ++tactic) {
    const int64_t bytes = qvit_linear_workspace(&l, tactic);
    Rotated workspace(size_t(bytes) + 16, 1);
    int status = QVIT_OK;
    const auto launch = [&](int i) {
      l.x = gx.at<void>(i), l.weight = gw.at<void>(i), l.y = gy.at<void>(i);
      if (status == QVIT_OK) status = qvit_linear(&l, tactic, workspace.at<void>(0), bytes, nullptr);
    };
    gy.poison(), workspace.poison();
    launch(0);
    require(cudaMemset(wrong.start, 0, 8), "count");
    count_wrong<<<unsigned((int64_t(m) * n + 255) / 256), 256>>>(gx.at<__half>(0), gc.at<int8_t>(0), gs.at<float>(0),
                                                               gb.at<float>(0), gy.at<__half>(0), m, n, k,
                                                               l.x_grid.scale, a_bits, wrong.at<unsigned long long>(0));
    unsigned long long bad = 0;
    require(cudaMemcpy(&bad, wrong.start, 8, cudaMemcpyDeviceToHost), "verify");
    if (status != QVIT_OK || bad != 0) {
      std::fprintf(stderr, "w%da%d tactic %d [%d, %d, %d]: %s, %llu outputs wrong\n", w_bits, a_bits, tactic, m, n, k,
                   qvit_status_string(status), bad);
      std::exit(1);
    }
    const double us = median_us(copies, kSamples, launch);
    tactics += (tactics.empty() ? "" : ", ") + std::to_string(us);
    if (best.tactic < 0 || us < best.us) best = {tactic, us};
  }
  return best;
}

}  // namespace
}  // namespace bench

int main() {
  using namespace bench;
  const Device gpu = device();
  cublasLtHandle_t cublas;
  if (cublasLtCreate(&cublas) != CUBLAS_STATUS_SUCCESS) return 2;
  std::mt19937 random(20260);
  std::printf("{\"device\": \"%s\", \"sm\": %d, \"unit\": \"us\", \"samples\": %d, \"results\": [", gpu.properties.name,
              gpu.properties.major * 10 + gpu.properties.minor, kSamples);
  std::fprintf(stderr, "%s\n%-24s %5s %5s  %10s %10s %10s %8s %8s %8s\n", gpu.properties.name, "layer", "batch", "bits",
               "us", "cublas i8", "cublas f16", "/i8", "/f16", "/memory");
  const char* separator = "";
  for (const Shape& s : kShapes)
    for (int batch : kBatches) {
      const int m = s.tokens * batch;
      const size_t once = size_t(m) * s.k * 2 + size_t(s.n) * s.k + size_t(m) * s.n * 4;
      const int copies = std::clamp(int(2 * size_t(gpu.properties.l2CacheSize) / once) + 1, 2, 64);
      const double int8 = cublas_us(cublas, true, m, s.n, s.k, copies, kSamples);
      const double half = cublas_us(cublas, false, m, s.n, s.k, copies, kSamples);
      for (int bits : {4, 6, 8}) {
        std::string tactics;
        const Best best = run(m, s.n, s.k, bits, bits, copies, random, tactics);
        const double bytes = 2.0 * m * s.k + double(s.n) * s.k * bits / 8 + 2.0 * m * s.n;
        const double memory = bytes / gpu.bytes_per_us;
        std::printf("%s\n{\"model\": \"%s\", \"layer\": \"%s\", \"batch\": %d, \"m\": %d, \"n\": %d, \"k\": %d, "
                    "\"w_bits\": %d, \"a_bits\": %d, \"tactic\": %d, \"us\": %.3f, \"tactics_us\": [%s], "
                    "\"cublaslt_int8_us\": %.3f, \"cublaslt_fp16_us\": %.3f, \"memory_us\": %.3f}",
                    separator, s.model, s.layer, batch, m, s.n, s.k, bits, bits, best.tactic, best.us, tactics.c_str(), int8,
                    half, memory);
        separator = ",";
        std::fprintf(stderr, "%-10s %-13s %5d %5d  %10.2f %10.2f %10.2f %7.2fx %7.2fx %7.2fx\n", s.model, s.layer, batch,
                     bits, best.us, int8, half, int8 / best.us, half / best.us, memory / best.us);
      }
    }
  std::printf("\n]}\n");
  cublasLtDestroy(cublas);
  return 0;
}
