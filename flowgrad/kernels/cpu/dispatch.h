#pragma once

#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::cpu {

/// The kernels of one instruction set.
struct Isa {
  /// "baseline", "avx2" or "avx512".
  const char* name;
  bool (*supported)();
  const GemmTables* gemm;
  const ElementwiseTables* elementwise;
  const ReduceTables* reduce;
  const FlowTables* flow;
  const CnfTables* cnf;
  const ConvTables* conv;
  const LstmTables* lstm;
  const NormTables* norm;
  const ScanTables* scan;
  const RandomTables* random;
  const LinalgTable* linalg;
  const LadderTable* ladder;
};

/// The widest instruction set that this processor has, found once by its feature bits; the
/// environment variable FLOWGRAD_ISA names another. Raises ValueError when that name is unknown or
/// the processor lacks it.
const Isa& isa();

/// Uses the named instruction set from now on; errors name `who` asks. Not to be called while
/// kernels run.
void set_isa(const char* name, const char* who = "FLOWGRAD_ISA");
/// True when set_isa(name) would succeed.
bool has_isa(const char* name);

}  // namespace flowgrad::kernels::cpu
