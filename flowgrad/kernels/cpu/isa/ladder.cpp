// The ladder of matrix products for one instruction set. See cpu/ladder.h.

#include "flowgrad/kernels/cpu/isa/ladder/01_naive.h"
#include "flowgrad/kernels/cpu/isa/ladder/02_loop_order.h"
#include "flowgrad/kernels/cpu/isa/ladder/03_blocked.h"
#include "flowgrad/kernels/cpu/isa/ladder/05_packed.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {

extern const cpu::LadderTable ladder_table;
const cpu::LadderTable ladder_table = {&naive, &loop_order, &blocked, &register_tile, &packed};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
