// What the emulated machine found while kernels ran.
#pragma once

#include "check.h"
#include "emulated.h"

// Nothing wrong, and no bank conflict: fails with what was found otherwise.
inline void check_clean(const std::string& where) {
  int64_t violations, conflicts, accesses;
  char first[256];
  emulated_findings(&violations, &conflicts, &accesses, first, sizeof first);
  check(violations == 0, where + ": " + std::to_string(violations) + " violations, first: " + first);
  check(conflicts == 0, where + ": " + std::to_string(conflicts) + " bank conflicts in " + std::to_string(accesses));
}
