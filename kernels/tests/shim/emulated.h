// What the tests ask of the emulated machine, for C++ and, through ctypes, for Python.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int emulated_sm(void);
void emulated_allow(const void* p, size_t bytes);  // further global accesses must lie in a range allowed
void emulated_forget(void);
void emulated_fail(int error);  // every launch ends with this error of CUDA and starts nothing; 0: they start again
// Counts since the last call; `first` (or null) gets the description of the first violation.
void emulated_findings(int64_t* violations, int64_t* bank_conflicts, int64_t* shared_accesses, char* first, size_t size);

#ifdef __cplusplus
}
#endif
