#include "flowgrad/kernels/names.h"

#include <array>

namespace flowgrad::kernels {
namespace {

template <size_t n, class Enum>
const char* pick(const std::array<const char*, n>& names, Enum op) {
  const auto i = static_cast<size_t>(op);
  return i < n ? names[i] : "unknown operation";
}

constexpr std::array kUnary{
#define UNARY(name, saves, zero, value, derivative) #name,
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
};
constexpr std::array kBinary{
#define BINARY(name, saves, how, value, grad_a, grad_b) #name,
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
};
constexpr std::array kCompare{
#define COMPARE(name, value) #name,
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE
};
constexpr std::array kPredicate{
#define PREDICATE(name, value) #name,
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE
};
constexpr std::array kLogical{"logical_and", "logical_or", "logical_xor"};
constexpr std::array kReduce{"sum", "prod", "min", "max", "sum_squares", "any", "all"};
constexpr std::array kScan{"cumsum", "cumprod", "logcumsumexp"};
constexpr std::array kRandom{"rand", "randn", "bernoulli", "rademacher", "randint"};

}  // namespace

const char* name_of(UnaryOp op) { return pick(kUnary, op); }
const char* name_of(BinaryOp op) { return pick(kBinary, op); }
const char* name_of(CompareOp op) { return pick(kCompare, op); }
const char* name_of(PredicateOp op) { return pick(kPredicate, op); }
const char* name_of(LogicalOp op) { return pick(kLogical, op); }
const char* name_of(ReduceOp op) { return pick(kReduce, op); }
const char* name_of(ScanOp op) { return pick(kScan, op); }
const char* name_of(RandomKind kind) { return pick(kRandom, kind); }

}  // namespace flowgrad::kernels
