#include "autograd/op_table.h"

// Products of matrices and dense linear algebra.
namespace flowgrad::testing {
namespace {

const char* kNoRankZero = "rank 1 or more is needed";

/// A square matrix for every position of a main shape.
std::function<Case(const Shape&)> squares(Fill fill, MultiFunction f, int64_t columns = 0) {
  return [=](const Shape& s) {
    if (s.empty()) return none("rank 2 or more is needed");
    Case c{{{join(s, {last(s)}), -2, 2, fill}}, f, {}};
    if (columns > 0) c.args.push_back({join(s, {columns})});
    return c;
  };
}

/// Rows of functions of square matrices; the work grows with the third power of the size.
Op square(const char* name, Fill fill, MultiFunction f, int64_t columns = 0) {
  Op op{name, squares(fill, f, columns)};
  const std::string n = name;
  const auto with_b = [columns](std::vector<Arg> args) {
    if (columns > 0) args.push_back({{3, columns}});
    return args;
  };
  op.refuses((n + ": a is (3, 4); square matrices (..., N, N) are accepted").c_str(),
             with_b({{{3, 4}}}), f);
  op.refuses((n + ": a is (3,); square matrices").c_str(), with_b({{{3}}}), f);
  std::vector<Arg> whole{index_to({3, 3}, 3)};
  if (columns > 0) whole.push_back(index_to({3, columns}, 3));
  op.refuses((n + ": a is int64; float32 and float64 are accepted").c_str(), whole, f);
  return op.smooth().sizes_to(33).tries({2}).dtypes("refused refused refused").mixes("one tensor");
}

}  // namespace

void add_linalg_rows(std::vector<Op>& t) {
  t.push_back(
      Op{"matmul",
         [](const Shape& s) {
           if (s.empty()) return none(kNoRankZero);
           if (s.rank() == 1) return Case{{{s}, {s}}, FN(matmul(x[0], x[1])), {}};
           Shape b = s;
           b[b.rank() - 2] = last(s);
           b[b.rank() - 1] = 2;
           return Case{{{s}, {b}}, FN(matmul(x[0], x[1])), {}};
         }}
          .smooth()
          .dtypes("refused refused refused")
          .also({{{2, 3}}, {{3}}}, FN(matmul(x[0], x[1])))
          .also({{{3}}, {{2, 3, 2}}}, FN(matmul(x[0], x[1])))
          .also({{{2, 1, 2, 3}}, {{2, 3, 2}}}, FN(matmul(x[0], x[1])))
          .also({{{3, 2}}, {{2, 3}}}, FN(matmul(transpose(x[0]), transpose(x[1]))))
          .refuses("matmul: inner sizes differ: a is (8, 64), b is (32, 10); axis 1 of a (64) must "
                   "equal axis 0 of b (32)",
                   {{{8, 64}}, {{32, 10}}}, FN(matmul(x[0], x[1])))
          .refuses("matmul: a has rank 0; rank 1 or more", {{{}}, {{3}}}, FN(matmul(x[0], x[1])))
          .refuses("matmul: batch axes do not broadcast: a is (2, 3, 4), b is (3, 4, 5); axis 0 of "
                   "a (2) and axis 0 of b (3)",
                   {{{2, 3, 4}}, {{3, 4, 5}}}, FN(matmul(x[0], x[1]))));
  t.push_back(
      Op{"addmm",
         [](const Shape& s) {
           if (s.empty()) return none(kNoRankZero);
           const Shape a = s.rank() == 1 ? Shape{last(s), 3} : s;
           Shape b = a;
           b[b.rank() - 2] = last(a);
           b[b.rank() - 1] = 2;
           return Case{{{{2}}, {a}, {b}}, FN(addmm(x[0], x[1], x[2])), {}};
         }}
          .smooth()
          .dtypes("refused refused refused")
          .also({{{2, 1}}, {{2, 3}}, {{3, 2}}}, FN(addmm(x[0], x[1], x[2])))
          .refuses("addmm: a is (3,), b is (3,); rank 2 or more", {{{3}}, {{3}}, {{3}}},
                   FN(addmm(x[0], x[1], x[2])))
          .refuses("addmm: inner sizes differ: a is (2, 3), b is (4, 2)",
                   {{{2}}, {{2, 3}}, {{4, 2}}}, FN(addmm(x[0], x[1], x[2])))
          .refuses("addmm: c: shape (5,) does not expand to (2, 2): axis 0 (5) must be 1 or 2",
                   {{{5}}, {{2, 3}}, {{3, 2}}}, FN(addmm(x[0], x[1], x[2]))));
  t.push_back(
      Op{"linear",
         [](const Shape& s) {
           if (s.empty()) return none(kNoRankZero);
           return Case{{{s}, {{4, last(s)}}, {{4}}}, FN(linear(x[0], x[1], x[2])), {}};
         }}
          .smooth()
          .dtypes("refused refused refused")
          .also({{{2, 3}}, {{2, 3}}}, FN(linear(x[0], x[1])))
          .also({{{2, 3}}, {{2, 3}}, {{2}}}, FN(linear(x[0], x[1], x[2], Epilogue::tanh)))
          .also({{{3}}, {{2, 3}}}, FN(linear(x[0], x[1], {}, Epilogue::gelu)))
          .refuses("linear: x is (3, 4), weight is (2, 5); the last axis of x",
                   {{{3, 4}}, {{2, 5}}}, FN(linear(x[0], x[1])))
          .refuses("linear: bias is (3,), weight is (2, 4); a bias of shape (2,)",
                   {{{3, 4}}, {{2, 4}}, {{3}}}, FN(linear(x[0], x[1], x[2])))
          .refuses("linear: x is (4,), weight is (4,)", {{{4}}, {{4}}}, FN(linear(x[0], x[1]))));
  t.push_back(
      Op{"outer", AT((std::vector<Arg>{{{numel(s)}}, {{3}}}), outer(x[0], x[1]))}
          .smooth()
          .dtypes("int64 int64 refused")
          .refuses("outer: a is (2, 3), b is (3,); rank 1", {{{2, 3}}, {{3}}},
                   FN(outer(x[0], x[1])))
          .refuses("outer: a is (3,), b is (); rank 1", {{{3}}, {{}}}, FN(outer(x[0], x[1])))
          .refuses("outer: a is bfloat16 and b is bfloat16", {{{3}}, {{3}}},
                   FN(outer(cast(x[0], DType::bfloat16), cast(x[1], DType::bfloat16)))));
  t.push_back(Op{"einsum",
                 [](const Shape& s) {
                   if (s.empty()) return none(kNoRankZero);
                   return Case{{{s}, {s}}, FN(einsum("...i,...i->...", x)), {}};
                 }}
                  .smooth()
                  .aliases()
                  .dtypes("refused refused refused")
                  .also({{{2, 3}}, {{3, 2}}}, FN(einsum("ij,jk->ki", {x[0], x[1]})))
                  .also({{{3, 3}}}, FN(einsum("ii->i", {x[0]})))
                  .also({{{2, 2}}, {{2, 3}}, {{2}}}, FN(einsum("ij,ik,i->jk", x)))
                  .refuses("einsum: no operands given", {{{3}}}, FN(einsum("i->i", x.first(0))))
                  .refuses("einsum: operand 0 is (3,) (rank 1) and its term \"ij\" has 2 letters",
                           {{{3}}}, FN(einsum("ij->i", x)))
                  .refuses("einsum: equation \"ij,jk->ik\": letter j is 3 in operand 0 (2, 3) and "
                           "4 in operand 1 (4, 2)",
                           {{{2, 3}}, {{4, 2}}}, FN(einsum("ij,jk->ik", x)))
                  .refuses("einsum: equation \"i->j\"", {{{3}}}, FN(einsum("i->j", x))));
  t.push_back(
      Op{"tensordot",
         [](const Shape& s) {
           if (s.empty()) return none(kNoRankZero);
           return Case{{{s}, {{last(s), 3}}}, FN(tensordot(x[0], x[1], 1)), {}};
         }}
          .smooth()
          .dtypes("refused refused refused")
          .also({{{2, 3, 2}}, {{3, 2, 2}}}, FN(tensordot(x[0], x[1])))
          .also({{{2}}, {{3}}}, FN(tensordot(x[0], x[1], 0)))
          .refuses("tensordot: n = 3 given for a of shape (2, 3)", {{{2, 3}}, {{3, 2}}},
                   FN(tensordot(x[0], x[1], 3)))
          .refuses(
              "tensordot: a is (2, 3), b is (4, 2); axis 1 of a (3) must equal axis 0 of b (4)",
              {{{2, 3}}, {{4, 2}}}, FN(tensordot(x[0], x[1], 1)))
          .refuses("tensordot: n = -1 given", {{{2, 3}}, {{3, 2}}}, FN(tensordot(x[0], x[1], -1))));
  t.push_back(
      Op{"cdist",
         [](const Shape& s) {
           if (s.empty()) return none(kNoRankZero);
           const Shape a = s.rank() == 1 ? Shape{last(s), 2} : s;
           Shape b = a;
           b[b.rank() - 2] = 3;
           return Case{{{a}, {b}}, FN(cdist(x[0], x[1])), {}};
         }}
          .smooth()
          .dtypes("refused refused refused")
          .also({{{2, 1, 3}}, {{2, 3}}}, FN(cdist(x[0], x[1])))
          .refuses("cdist: a is (2, 3), b is (2, 4); (..., N, D) and (..., M, D)",
                   {{{2, 3}}, {{2, 4}}}, FN(cdist(x[0], x[1])))
          .refuses("cdist: a is (1, 1, 1, 1, 1, 1, 2, 3), b is (2, 3); rank 7 or less",
                   {{{1, 1, 1, 1, 1, 1, 2, 3}}, {{2, 3}}}, FN(cdist(x[0], x[1])))
          .refuses("cdist: a is (3,), b is (2, 3)", {{{3}}, {{2, 3}}}, FN(cdist(x[0], x[1])))
          .refuses("cdist: ", {index_to({2, 3}, 2), index_to({2, 3}, 2)}, FN(cdist(x[0], x[1]))));

  t.push_back(square("det", Fill::square, FN(det(x[0])))
                  .also({{{2, 3, 3}, -2, 2, Fill::square}}, FN(det(x[0]))));
  t.push_back(square("slogdet", Fill::square, FN(slogdet(x[0])))
                  .also({{{2, 3, 3}, -2, 2, Fill::square}}, FN(slogdet(x[0]))));
  t.push_back(
      square("inverse", Fill::square, FN(inverse(x[0])))
          .also({{{2, 2, 2}, -2, 2, Fill::square}}, FN(inverse(x[0])))
          .refuses("inverse: a is (2, 2) and batch entry 0 is singular: its pivot 0 is zero",
                   {{{2, 2}, 0, 0, Fill::index}}, FN(inverse(cast(x[0] * 0.0, DType::float64)))));
  t.push_back(square("solve", Fill::square, FN(solve(x[0], x[1])), 2)
                  .mixes("float64")
                  .also({{{3, 3}, -2, 2, Fill::square}, {{3}}}, FN(solve(x[0], x[1])))
                  .refuses("solve: a is (3, 3), b is (4, 2); b (..., N, M) with N = 3",
                           {{{3, 3}, -2, 2, Fill::square}, {{4, 2}}}, FN(solve(x[0], x[1])))
                  .refuses("solve: a is (2, 2) and batch entry 0 is singular", {{{2, 2}}, {{2, 1}}},
                           FN(solve(x[0] * 0.0, x[1]))));
  t.push_back(square("cholesky", Fill::spd, FN(cholesky(x[0])))
                  .also({{{2, 3, 3}, -2, 2, Fill::spd}}, FN(cholesky(x[0])))
                  .refuses("cholesky", {{{2, 2}, -2, 2, Fill::spd}}, FN(cholesky(-x[0]))));
  t.push_back(square("lu", Fill::square, FN(lu(x[0])))
                  .also({{{2, 2, 2}, -2, 2, Fill::square}}, FN(lu(x[0]))));
  t.push_back(
      square("triangular_solve", Fill::triangular, FN(triangular_solve(x[0], x[1], true)), 2)
          .mixes("float64")
          .hides_nan("only one triangle is read")
          .also({{{3, 3}, -2, 2, Fill::triangular}, {{3, 2}}},
                FN(triangular_solve(x[0], x[1], false)))
          .also({{{2, 2, 2}, -2, 2, Fill::triangular}, {{2, 2, 1}}},
                FN(triangular_solve(x[0], x[1], false, true)))
          .refuses("triangular_solve: a is (3, 3), b is (4, 2)",
                   {{{3, 3}, -2, 2, Fill::triangular}, {{4, 2}}},
                   FN(triangular_solve(x[0], x[1], true)))
          .refuses("triangular_solve: a is (2, 2) and batch entry 0 is singular",
                   {{{2, 2}}, {{2, 1}}}, FN(triangular_solve(x[0] * 0.0, x[1], true))));
}

}  // namespace flowgrad::testing
