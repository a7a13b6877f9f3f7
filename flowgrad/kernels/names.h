#pragma once

#include "flowgrad/kernels/backend.h"

/// Names of the operations as they appear in messages, from the lines of elementwise.def.
namespace flowgrad::kernels {

const char* name_of(UnaryOp op);
const char* name_of(BinaryOp op);
const char* name_of(CompareOp op);
const char* name_of(PredicateOp op);
const char* name_of(LogicalOp op);
const char* name_of(ReduceOp op);
/// "cumsum", "cumprod", "logcumsumexp": a scan is known to users by these.
const char* name_of(ScanOp op);
const char* name_of(RandomKind kind);

}  // namespace flowgrad::kernels
