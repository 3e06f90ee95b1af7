// What the GPU being compiled for can do. The only place that looks at an architecture number.
#pragma once

#if defined(QVIT_EMULATED_SM)
#define QVIT_SM QVIT_EMULATED_SM
#elif defined(__CUDA_ARCH__)
#define QVIT_SM (__CUDA_ARCH__ / 10)
#else
#define QVIT_SM 90  // the host's half of a compilation, which only parses device code
#endif

// 4-bit tensor cores. Later GPUs accept the same PTX and emulate it with 8-bit products and unpacking, without a word.
#define QVIT_NATIVE_S4 (QVIT_SM == 80 || QVIT_SM == 86 || QVIT_SM == 87 || QVIT_SM == 89)

// Copies from global to shared memory that do not pass through registers, and m16n8k32 products.
#define QVIT_AMPERE (QVIT_SM >= 80)

#define QVIT_DEVICE __device__ __forceinline__
