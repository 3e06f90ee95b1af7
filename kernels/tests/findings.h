// Checks what the emulated machine counted while kernels ran.
#pragma once

#include "check.h"
#include "emulated.h"

// Requires that there were no violations and no bank conflicts; otherwise fails with what the machine counted.
inline void check_clean(const std::string& where) {
  int64_t violations, conflicts, accesses;
  char first[256];
  emulated_findings(&violations, &conflicts, &accesses, first, sizeof first);
  check(violations == 0, where + ": " + std::to_string(violations) + " violations, first: " + first);
  check(conflicts == 0, where + ": " + std::to_string(conflicts) + " bank conflicts in " + std::to_string(accesses));
}
