#include "emulated.h"

#include <cstdio>

#include "machine.h"

int emulated_sm(void) { return QVIT_EMULATED_SM; }
void emulated_allow(const void* p, size_t bytes) { machine::allow_global(p, bytes); }
void emulated_forget(void) { machine::forget_global(); }
void emulated_fail(int error) { machine::launch_error = error; }

void emulated_findings(int64_t* violations, int64_t* bank_conflicts, int64_t* shared_accesses, char* first, size_t size) {
  const machine::Findings found = machine::take_findings();
  *violations = found.violations;
  *bank_conflicts = found.bank_conflicts;
  *shared_accesses = found.shared_accesses;
  if (first != nullptr) std::snprintf(first, size, "%s", found.first.c_str());
}
