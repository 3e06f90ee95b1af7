// Defines what the GPU being compiled for can do. This is the only file that looks at an architecture number.
#pragma once

#if defined(QVIT_EMULATED_SM)
#define QVIT_SM QVIT_EMULATED_SM
#elif defined(__CUDA_ARCH__)
#define QVIT_SM (__CUDA_ARCH__ / 10)
#else
#define QVIT_SM 90  // the host's half of a compilation, which only parses device code
#endif

// Whether it has 4-bit tensor cores. Later GPUs accept the same PTX and silently emulate it with unpacking and 8-bit
// products.
#define QVIT_NATIVE_S4 (QVIT_SM == 80 || QVIT_SM == 86 || QVIT_SM == 87 || QVIT_SM == 89)

// Whether it has copies from global to shared memory that bypass registers, and m16n8k32 products.
#define QVIT_AMPERE (QVIT_SM >= 80)

#define QVIT_DEVICE __device__ __forceinline__
