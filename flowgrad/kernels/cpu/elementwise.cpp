#include <utility>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/host_functions.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

static_assert(static_cast<int>(UnaryOp::pow_scalar) == number::unary_pow_scalar);
static_assert(static_cast<int>(BinaryOp::logaddexp) == number::binary_logaddexp);
static_assert(static_cast<int>(CompareOp::greater_equal) == number::compare_greater_equal);
static_assert(static_cast<int>(PredicateOp::isnan) == number::predicate_isnan);

template <class T>
T* as(void* p) {
  return static_cast<T*>(p);
}

/// An operand that a kernel does not read: any view of the right shape will do.
const View& or_else(const View& v, const View& substitute) { return v.defined() ? v : substitute; }

/// Plain loops over a block. Functions of their own, so that the walk over views is made once.
template <class F, class From, class To>
void loop(const From* x, const From* y, To* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = F{}(x[i], y[i]);
}
template <class F>
void loop(const int64_t* x, int64_t* out, int64_t n, int64_t p, int64_t q) {
  for (int64_t i = 0; i < n; ++i) out[i] = F{}(x[i], p, q);
}

template <class From, class To>
void run_loop(void (*kernel)(const From*, const From*, To*, int64_t), const View& a, const View& b,
              const View& out) {
  for_views([&](void* const* p,
                int64_t n) { kernel(as<const From>(p[1]), as<const From>(p[2]), as<To>(p[0]), n); },
            out, a, b);
}

/// A matrix whose columns are contiguous, onto one whose rows are: by squares in registers.
template <class T>
bool copy_transposed(const Axes& axes, const void* in, void* out) {
  const GemmTable<T>& t = gemm_table<T>();
  if (axes.rank != 2 || axes.stride[1][0] != 1 || axes.stride[0][1] != 1 ||
      axes.stride[0][0] != axes.size[1] || axes.size[1] < t.lanes)
    return false;
  const int64_t rows = axes.size[0], columns = axes.size[1], lanes = t.lanes;
  const int64_t strip = std::max<int64_t>(lanes, kChunk / columns / lanes * lanes);
  parallel_for((rows + strip - 1) / strip, [&](int64_t i) {
    const int64_t begin = i * strip, end = std::min(rows, begin + strip);
    t.pack(static_cast<const T*>(in) + begin, 1, axes.stride[1][1], end - begin, columns, columns,
           static_cast<T*>(out) + begin * columns);
  });
  return true;
}

void copy_same_type(const View& in, const View& out) {
  const Strides* const strides[] = {out.strides, in.strides};
  const Axes axes = merge_axes(*out.shape, strides, 2);
  const int bytes = static_cast<int>(size_of(out.dtype));
  if (axes.total == 0) return;
  if (bytes == 4 && copy_transposed<float>(axes, in.data, out.data)) return;
  if (bytes == 8 && copy_transposed<double>(axes, in.data, out.data)) return;
  // Rows are moved straight from place to place, without the block buffers.
  const int64_t inner = axes.inner(), rows = axes.total / inner;
  const int64_t rows_per_chunk = std::max<int64_t>(1, kChunk / inner);
  const auto run = [&](int64_t begin, int64_t end, int64_t column, int64_t n) {
    RowCursor cursor(axes, begin);
    for (int64_t r = begin; r < end; ++r, cursor.advance())
      copy_run(
          static_cast<const char*>(in.data) +
              (cursor.offset(1) + column * axes.inner_stride(1)) * bytes,
          axes.inner_stride(1),
          static_cast<char*>(out.data) + (cursor.offset(0) + column * axes.inner_stride(0)) * bytes,
          axes.inner_stride(0), n, bytes);
  };
  if (axes.total < 4 * kChunk) return run(0, rows, 0, inner);
  if (rows == 1) {
    parallel_for((inner + kChunk - 1) / kChunk,
                 [&](int64_t i) { run(0, 1, i * kChunk, std::min(kChunk, inner - i * kChunk)); });
    return;
  }
  parallel_for((rows + rows_per_chunk - 1) / rows_per_chunk, [&](int64_t i) {
    run(i * rows_per_chunk, std::min(rows, (i + 1) * rows_per_chunk), 0, inner);
  });
}

/// Converts with a kernel when there is one for the two types.
template <class From, class To>
void convert_views(void (*kernel)(const From*, To*, int64_t), const View& in, const View& out) {
  for_views([&](void* const* p, int64_t n) { kernel(as<const From>(p[1]), as<To>(p[0]), n); }, out,
            in);
}

bool converted(const View& in, const View& out) {
  const ElementwiseTables& t = *isa().elementwise;
  const DType from = in.dtype, to = out.dtype;
  if (to == DType::float32) {
    if (from == DType::float64)
      convert_views(t.f64_to_f32, in, out);
    else if (from == DType::bfloat16)
      convert_views(t.bf16_to_f32, in, out);
    else if (from == DType::boolean)
      convert_views(t.bool_to_f32, in, out);
    else if (from == DType::int64)
      convert_views(t.i64_to_f32, in, out);
    else
      return false;
    return true;
  }
  if (to == DType::float64) {
    if (from == DType::float32)
      convert_views(t.f32_to_f64, in, out);
    else if (from == DType::boolean)
      convert_views(t.bool_to_f64, in, out);
    else if (from == DType::int64)
      convert_views(t.i64_to_f64, in, out);
    else
      return false;
    return true;
  }
  if (to == DType::bfloat16 && from == DType::float32) {
    convert_views(t.f32_to_bf16, in, out);
    return true;
  }
  return false;
}

/// Rows of one operand with a number each from the other, which needs no row of copies: x (N, C, H,
/// W) times s (N, C, 1, 1). False where the operands are not so, or op is not + - *.
template <class T>
bool with_number_per_row(BinaryOp op, const View& a, const View& b, const View& out) {
  // Most calls end here, before their axes are looked at.
  if (op != BinaryOp::add && op != BinaryOp::sub && op != BinaryOp::mul) return false;
  const auto repeats = [](const View& v) {
    return !v.strides->empty() && (*v.strides)[v.strides->size() - 1] == 0;
  };
  if (!repeats(a) && !repeats(b)) return false;
  const Strides* const strides[] = {out.strides, a.strides, b.strides};
  const Axes axes = merge_axes(*out.shape, strides, 3);
  const int64_t inner = axes.inner();
  const int numbers = axes.inner_stride(1) == 0 ? 1 : 2, rows = 3 - numbers;
  if (axes.rank < 2 || axes.total == 0 || inner < 16 || inner > kChunk ||
      axes.inner_stride(0) != 1 || axes.inner_stride(rows) != 1 || axes.inner_stride(numbers) != 0)
    return false;
  const ElementwiseTable<T>& table = elementwise_table<T>();
  const bool minus = op == BinaryOp::sub;
  if (minus && numbers == 1) return false;
  const auto kernel =
      table.unary[op == BinaryOp::mul ? number::unary_mul_scalar : number::unary_add_scalar];
  const T* const x = (numbers == 1 ? b : a).as<const T>();
  const T* const of_row = (numbers == 1 ? a : b).as<const T>();
  const int64_t all = axes.total / inner, each = kChunk / inner;
  const auto run = [&](int64_t begin, int64_t end) {
    RowCursor cursor(axes, begin);
    for (int64_t r = begin; r < end; ++r, cursor.advance()) {
      const T value = of_row[cursor.offset(numbers)];
      kernel(x + cursor.offset(rows), out.as<T>() + cursor.offset(0), inner, minus ? -value : value,
             T(0));
    }
  };
  if (axes.total < 2 * kChunk)
    run(0, all);
  else
    parallel_for(divide_up(all, each),
                 [&](int64_t i) { run(i * each, std::min(all, (i + 1) * each)); });
  return true;
}

}  // namespace

Backend& fast_cpu_backend() {
  static CpuBackendFast instance;
  return instance;
}

void CpuBackendFast::copy(View in, View out) {
  if (in.dtype == out.dtype) return copy_same_type(in, out);
  if (!converted(in, out)) ReferenceBackend::copy(in, out);
}

void CpuBackendFast::fill(View out, double value) {
  const bool done = with_floating(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = elementwise_table<T>().fill;
    for_views([&](void* const* p, int64_t n) { kernel(static_cast<T>(value), as<T>(p[0]), n); },
              out);
  });
  if (!done) ReferenceBackend::fill(out, value);
}

void CpuBackendFast::add_into(View in, View out) {
  if (in.dtype != out.dtype || !is_one_to_one(*out.shape, *out.strides))
    return ReferenceBackend::add_into(in, out);
  const bool done = with_floating(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = elementwise_table<T>().binary[number::binary_add];
    // The output is also an operand: its block must be read before it is written.
    for_views([&](void* const* p,
                  int64_t n) { kernel(as<const T>(p[2]), as<const T>(p[1]), as<T>(p[0]), n); },
              out, in, out);
  });
  if (!done) ReferenceBackend::add_into(in, out);
}

void CpuBackendFast::unary(UnaryOp op, Params params, View x, View out) {
  const bool done =
      out.dtype == x.dtype && with_floating(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto kernel = elementwise_table<T>().unary[static_cast<int>(op)];
        const T p = static_cast<T>(params.p), q = static_cast<T>(params.q);
        for_views(
            [&](void* const* at, int64_t n) { kernel(as<const T>(at[1]), as<T>(at[0]), n, p, q); },
            out, x);
      });
  if (done) return;
  if (x.dtype == DType::int64 && out.dtype == DType::int64) {
    const auto p = integer_parameter(name_of(op), params.p),
               q = integer_parameter(name_of(op), params.q);
    void (*kernel)(const int64_t*, int64_t*, int64_t, int64_t, int64_t) = nullptr;
    scalar::visit_integer(op, [&](auto f) { kernel = &loop<decltype(f)>; });
    return for_views(
        [&](void* const* at, int64_t n) {
          kernel(as<const int64_t>(at[1]), as<int64_t>(at[0]), n, p, q);
        },
        out, x);
  }
  ReferenceBackend::unary(op, params, x, out);
}

void CpuBackendFast::unary_grad(UnaryOp op, Params params, View g, View x, View y, View out) {
  const View& vx = or_else(x, g);
  const View& vy = or_else(y, g);
  const bool same = g.dtype == out.dtype && vx.dtype == out.dtype && vy.dtype == out.dtype;
  const bool done = same && with_floating(out.dtype, [&](auto zero) {
                      using T = decltype(zero);
                      const auto kernel = elementwise_table<T>().unary_grad[static_cast<int>(op)];
                      const T p = static_cast<T>(params.p), q = static_cast<T>(params.q);
                      for_views(
                          [&](void* const* at, int64_t n) {
                            kernel(as<const T>(at[1]), as<const T>(at[2]), as<const T>(at[3]),
                                   as<T>(at[0]), n, p, q);
                          },
                          out, g, vx, vy);
                    });
  if (!done) ReferenceBackend::unary_grad(op, params, g, x, y, out);
}

void CpuBackendFast::binary(BinaryOp op, View a, View b, View out) {
  const bool done =
      a.dtype == b.dtype && a.dtype == out.dtype && with_floating(a.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (with_number_per_row<T>(op, a, b, out)) return;
        const auto kernel = elementwise_table<T>().binary[static_cast<int>(op)];
        for_views([&](void* const* p,
                      int64_t n) { kernel(as<const T>(p[1]), as<const T>(p[2]), as<T>(p[0]), n); },
                  out, a, b);
      });
  if (done) return;
  if (a.dtype == DType::int64 && b.dtype == DType::int64 && out.dtype == DType::int64)
    return scalar::visit_integer(
        op, [&](auto f) { run_loop<int64_t, int64_t>(&loop<decltype(f)>, a, b, out); });
  ReferenceBackend::binary(op, a, b, out);
}

void CpuBackendFast::binary_grad(BinaryOp op, int wrt, View g, View a, View b, View y, View out) {
  const View& va = or_else(a, g);
  const View& vb = or_else(b, g);
  const View& vy = or_else(y, g);
  const bool same = g.dtype == out.dtype && va.dtype == out.dtype && vb.dtype == out.dtype &&
                    vy.dtype == out.dtype;
  const bool done = same && with_floating(out.dtype, [&](auto zero) {
                      using T = decltype(zero);
                      const auto kernel =
                          elementwise_table<T>().binary_grad[static_cast<int>(op)][wrt];
                      for_views(
                          [&](void* const* p, int64_t n) {
                            kernel(as<const T>(p[1]), as<const T>(p[2]), as<const T>(p[3]),
                                   as<const T>(p[4]), as<T>(p[0]), n);
                          },
                          out, g, va, vb, vy);
                    });
  if (!done) ReferenceBackend::binary_grad(op, wrt, g, a, b, y, out);
}

void CpuBackendFast::multiply_add(View a, View b, View out) {
  const bool done =
      a.dtype == out.dtype && b.dtype == out.dtype && with_floating(out.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto kernel = elementwise_table<T>().multiply_add;
        for_views(
            [&](void* const* p, int64_t n) {
              kernel(as<const T>(p[1]), as<const T>(p[2]), as<const T>(p[3]), as<T>(p[0]), n);
            },
            out, a, b, out);
      });
  if (!done) ReferenceBackend::multiply_add(a, b, out);
}

void CpuBackendFast::compare(CompareOp op, View a, View b, View out) {
  const bool done =
      a.dtype == b.dtype && out.dtype == DType::boolean && with_floating(a.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto kernel = elementwise_table<T>().compare[static_cast<int>(op)];
        for_views(
            [&](void* const* p, int64_t n) {
              kernel(as<const T>(p[1]), as<const T>(p[2]), as<uint8_t>(p[0]), n);
            },
            out, a, b);
      });
  if (done) return;
  const bool same = a.dtype == b.dtype && out.dtype == DType::boolean;
  if (same && a.dtype == DType::int64)
    return scalar::visit_comparison(
        op, [&](auto f) { run_loop<int64_t, bool>(&loop<decltype(f)>, a, b, out); });
  if (same && a.dtype == DType::boolean)
    return scalar::visit_comparison(
        op, [&](auto f) { run_loop<bool, bool>(&loop<decltype(f)>, a, b, out); });
  ReferenceBackend::compare(op, a, b, out);
}

void CpuBackendFast::logical(LogicalOp op, View a, View b, View out) {
  for (const View& v : {a, b, out})
    if (v.dtype != DType::boolean) return ReferenceBackend::logical(op, a, b, out);
  scalar::visit_logical(op, [&](auto f) { run_loop<bool, bool>(&loop<decltype(f)>, a, b, out); });
}

void CpuBackendFast::predicate(PredicateOp op, View x, View out) {
  const bool done = out.dtype == DType::boolean && with_floating(x.dtype, [&](auto zero) {
                      using T = decltype(zero);
                      const auto kernel = elementwise_table<T>().predicate[static_cast<int>(op)];
                      for_views([&](void* const* p,
                                    int64_t n) { kernel(as<const T>(p[1]), as<uint8_t>(p[0]), n); },
                                out, x);
                    });
  if (!done) ReferenceBackend::predicate(op, x, out);
}

void CpuBackendFast::where(View condition, View a, View b, View out) {
  // Nothing is computed: 64 bits are moved as 64 bits.
  if (a.dtype == DType::int64 && b.dtype == DType::int64 && out.dtype == DType::int64)
    a.dtype = b.dtype = out.dtype = DType::float64;
  const bool same = condition.dtype == DType::boolean && a.dtype == b.dtype && a.dtype == out.dtype;
  const bool done =
      same && with_floating(out.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto kernel = elementwise_table<T>().where;
        for_views(
            [&](void* const* p, int64_t n) {
              kernel(as<const uint8_t>(p[1]), as<const T>(p[2]), as<const T>(p[3]), as<T>(p[0]), n);
            },
            out, condition, a, b);
      });
  if (!done) ReferenceBackend::where(condition, a, b, out);
}

void CpuBackendFast::scale(View out, double factor) {
  const bool done = with_floating(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = elementwise_table<T>().unary[number::unary_mul_scalar];
    for_views(
        [&](void* const* p, int64_t n) {
          kernel(as<const T>(p[1]), as<T>(p[0]), n, static_cast<T>(factor), T(0));
        },
        out, out);
  });
  if (!done) ReferenceBackend::scale(out, factor);
}

void CpuBackendFast::lerp(View average, View value, double decay) {
  const bool done = average.dtype == value.dtype && with_floating(average.dtype, [&](auto zero) {
                      using T = decltype(zero);
                      const auto kernel = elementwise_table<T>().lerp;
                      for_views(
                          [&](void* const* p, int64_t n) {
                            // A buffered output starts empty, so the old average comes as an input.
                            if (p[0] != p[2])
                              std::memcpy(p[0], p[2], static_cast<size_t>(n) * sizeof(T));
                            kernel(as<const T>(p[1]), as<T>(p[0]), n, static_cast<T>(decay));
                          },
                          average, value, average);
                    });
  if (!done) ReferenceBackend::lerp(average, value, decay);
}

}  // namespace flowgrad::kernels
