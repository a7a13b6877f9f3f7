#include "flowgrad/kernels/cpu/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <string>

#include "flowgrad/core/error.h"

namespace flowgrad::kernels {

#define FLOWGRAD_TABLES(isa)                                                                  \
  namespace isa {                                                                             \
  extern const cpu::GemmTables gemm_tables;                                                   \
  extern const cpu::ElementwiseTables elementwise_tables;                                     \
  extern const cpu::ReduceTables reduce_tables;                                               \
  extern const cpu::FlowTables flow_tables;                                                   \
  extern const cpu::CnfTables cnf_tables;                                                     \
  extern const cpu::ConvTables conv_tables;                                                   \
  extern const cpu::LstmTables lstm_tables;                                                   \
  extern const cpu::NormTables norm_tables;                                                   \
  extern const cpu::ScanTables scan_tables;                                                   \
  extern const cpu::RandomTables random_tables;                                               \
  extern const cpu::LinalgTable linalg_table;                                                 \
  extern const cpu::LadderTable ladder_table;                                                 \
  constexpr cpu::Isa with_tables(const char* name, bool (*supported)()) {                     \
    return {name,         supported,      &gemm_tables,  &elementwise_tables, &reduce_tables, \
            &flow_tables, &cnf_tables,    &conv_tables,  &lstm_tables,        &norm_tables,   \
            &scan_tables, &random_tables, &linalg_table, &ladder_table};                      \
  }                                                                                           \
  }
FLOWGRAD_TABLES(baseline)
#if defined(FLOWGRAD_HAVE_X86_ISA)
FLOWGRAD_TABLES(avx2)
FLOWGRAD_TABLES(avx512)
#endif
#undef FLOWGRAD_TABLES

namespace cpu {
namespace {

#if defined(FLOWGRAD_HAVE_X86_ISA)
// The feature lists of x86-64-v3 and -v4, which the kernels are compiled for.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
bool has_avx512() {
#if defined(FLOWGRAD_EMULATED_AVX512)
  return has_avx2();
#endif
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// Widest first.
const Isa kIsas[] = {
#if defined(FLOWGRAD_HAVE_X86_ISA)
    avx512::with_tables("avx512", &has_avx512),
    avx2::with_tables("avx2", &has_avx2),
#endif
    baseline::with_tables("baseline", [] { return true; }),
};

std::string accepted() {
  std::string names;
  for (const Isa& i : kIsas)
    if (i.supported()) names += std::string(names.empty() ? "" : ", ") + i.name;
  return names;
}

/// ValueError that says who asked for it.
const Isa& named(const std::string& who, const std::string& name) {
  for (const Isa& i : kIsas) {
    if (name != i.name) continue;
    if (i.supported()) return i;
    throw ValueError(who + ": this processor has no " + name + "; it accepts: " + accepted());
  }
  throw ValueError(who + ": unknown instruction set '" + name +
                   "'; this processor accepts: " + accepted());
}

const Isa& widest() {
  for (const Isa& i : kIsas) {
#if defined(FLOWGRAD_EMULATED_AVX512)
    if (i.name == std::string("avx512")) continue;  // only where it is asked for
#endif
    if (i.supported()) return i;
  }
  return kIsas[std::size(kIsas) - 1];
}

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

const Isa& isa() {
  const Isa* current = chosen.load(std::memory_order_acquire);
  if (current != nullptr) return *current;
  const char* name = std::getenv("FLOWGRAD_ISA");
  const Isa& found = name == nullptr || *name == '\0' ? widest() : named("FLOWGRAD_ISA", name);
  chosen.store(&found, std::memory_order_release);
  return found;
}

void set_isa(const char* name, const char* who) {
  chosen.store(&named(who, name), std::memory_order_release);
}

bool has_isa(const char* name) {
  for (const Isa& i : kIsas)
    if (std::string(name) == i.name) return i.supported();
  return false;
}

}  // namespace cpu
}  // namespace flowgrad::kernels
