#include "autograd/op_table.h"
#include "device/device.h"

// Shapes and views.
namespace flowgrad::testing {
namespace {

/// s and a new axis before it, where the rank allows one.
Shape stacked(Shape s, int64_t n) {
  s.insert(0, n);
  return s;
}
/// 1 before every axis of s.
Arg vector_of(const Shape& s) { return {{numel(s)}}; }

/// A matrix for any main shape: (..., 3) or (3, n).
Shape matrix_shape(const Shape& s) { return s.rank() < 2 ? Shape{3, numel(s)} : s; }

}  // namespace

void add_shape_rows(std::vector<Op>& t) {
  t.push_back(moves("reshape", AT({vector_of(s)}, reshape(x[0], s)))
                  .aliases()
                  .also({{{2, 3}}}, FN(reshape(x[0], {3, -1})))
                  .also({{{2, 3}}}, FN(reshape(transpose(x[0]), {6})))
                  .refuses("reshape: shape (3, 4) has 12 elements and (5, 2) has 10", {{{3, 4}}},
                           FN(reshape(x[0], {5, 2})))
                  .refuses("at most one may be -1", {{{3, 4}}}, FN(reshape(x[0], {-1, -1})))
                  .refuses("reshape: shape (3, 4) (12 elements) cannot become (-1, 5)", {{{3, 4}}},
                           FN(reshape(x[0], {-1, 5}))));
  t.push_back(
      moves("view", AT({vector_of(s)}, view(contiguous(x[0]), s)))
          .aliases()
          .also({{{2, 3}}}, FN(view(contiguous(x[0]), {3, -1})))
          .refuses("view: shape (4, 3) with strides (1, 4) has no view of shape (12,); use reshape",
                   {{{3, 4}}}, FN(view(transpose(x[0]), {12})))
          .refuses("view: shape (3, 4) has 12 elements", {{{3, 4}}}, FN(view(x[0], {5, 2})))
          .refuses("view: shape (-2, 6)", {{{3, 4}}}, FN(view(x[0], {-2, 6}))));
  t.push_back(moves("permute",
                    [](const Shape& s) {
                      Dims axes;
                      for (int i = 0; i < s.rank(); ++i) axes.push_back((i + 1) % s.rank());
                      return Case{{{s}}, FN(permute(x[0], axes)), {}};
                    })
                  .aliases()
                  .also({{{2, 3, 2}}}, FN(permute(x[0], {-1, 0, 1})))
                  .refuses("permute: 1 axes (0,) given", {{{3, 4}}}, FN(permute(x[0], Dims{0})))
                  .refuses("permute: axis 1 is named twice in (1, -1)", {{{3, 4}}},
                           FN(permute(x[0], {1, -1})))
                  .refuses("permute: axis 2 given; a tensor of rank 2 accepts -2 to 1", {{{3, 4}}},
                           FN(permute(x[0], {0, 2}))));
  t.push_back(
      moves("transpose", AT({Arg{s}}, transpose(x[0], 0, -1)))
          .aliases()
          .also({{{2, 3, 2}}}, FN(transpose(x[0])))
          .refuses("transpose: axis 2 given; a tensor of rank 2 accepts -2 to 1", {{{3, 4}}},
                   FN(transpose(x[0], 0, 2)))
          .refuses("transpose: axis -3 given", {{{3, 4}}}, FN(transpose(x[0], -3, 0)))
          .refuses("transpose: axis -2 given; a tensor of rank 1", {{{3}}}, FN(transpose(x[0]))));
  t.push_back(
      moves("expand", AT({Arg{s}}, expand(x[0], stacked(s, 2))))
          .aliases()
          .also({{{3, 1}}}, FN(expand(x[0], {2, -1, 2})))
          .refuses("expand: shape (3, 4) does not expand to (3, 5): axis 1 (4) must be 1 or 5",
                   {{{3, 4}}}, FN(expand(x[0], {3, 5})))
          .refuses("expand: shape (3, 4) does not expand to (4,): the target has fewer axes",
                   {{{3, 4}}}, FN(expand(x[0], {4})))
          .refuses("expand: size -2 given for the new axis 0", {{{3, 4}}},
                   FN(expand(x[0], {-2, 3, 4}))));
  t.push_back(
      moves("sum_to", AT({Arg{stacked(s, 2)}}, sum_to(x[0], s)))
          .dtypes("int64 int64 refused")
          .aliases()
          .also({{{2, 3, 2}}}, FN(sum_to(x[0], {3, 1})))
          .refuses(
              "sum_to: shape (3, 4) does not come from broadcasting (2, 3, 4): it has more axes",
              {{{3, 4}}}, FN(sum_to(x[0], {2, 3, 4})))
          .refuses("sum_to: shape (3, 4) does not come from broadcasting (3, 5): axis 1 (5)",
                   {{{3, 4}}}, FN(sum_to(x[0], {3, 5})))
          .refuses("sum_to: x is bfloat16", {{{3, 4}}},
                   FN(sum_to(cast(x[0], DType::bfloat16), {4}))));
  t.push_back(
      moves("squeeze", AT({Arg{stacked(s, 1)}}, squeeze(x[0], 0)))
          .aliases()
          .also({{{2, 1, 3}}}, FN(squeeze(x[0], -2)))
          .refuses("squeeze: axis 1 of shape (3, 4) has size 4; only size 1", {{{3, 4}}},
                   FN(squeeze(x[0], 1)))
          .refuses("squeeze: axis 2 given; a tensor of rank 2", {{{3, 1}}}, FN(squeeze(x[0], 2)))
          .refuses("squeeze: axis -3 given", {{{3, 1}}}, FN(squeeze(x[0], -3))));
  t.push_back(moves("unsqueeze", AT({Arg{s}}, unsqueeze(x[0], -1)))
                  .aliases()
                  .also({{{2, 3}}}, FN(unsqueeze(x[0], 1)))
                  .refuses("unsqueeze: axis 3 given", {{{3, 4}}}, FN(unsqueeze(x[0], 3)))
                  .refuses("unsqueeze: axis -4 given", {{{3, 4}}}, FN(unsqueeze(x[0], -4)))
                  .refuses("rank 9 given; at most 8", {{{1, 1, 1, 1, 1, 1, 1, 1}}},
                           FN(unsqueeze(x[0], 0))));
  t.push_back(moves("flatten", AT({Arg{s}}, flatten(x[0])))
                  .aliases()
                  .also({{{2, 3, 2}}}, FN(flatten(x[0], 1, -1)))
                  .refuses("flatten: first_axis 1 comes after last_axis 0 in shape (3, 4)",
                           {{{3, 4}}}, FN(flatten(x[0], 1, 0)))
                  .refuses("flatten: axis 2 given", {{{3, 4}}}, FN(flatten(x[0], 2, -1)))
                  .refuses("flatten: axis -3 given", {{{3, 4}}}, FN(flatten(x[0], -3))));
  t.push_back(
      moves("slice",
            [](const Shape& s) {
              if (s.empty()) return none("a tensor of rank 0 cannot be sliced");
              return Case{{{s}}, FN(slice(x[0], -1, s.back() > 2 ? 1 : 0, s.back(), 2)), {}};
            })
          .aliases()
          .hides_nan("the slice may leave the element out")
          .also({{{4, 3}}}, FN(slice(x[0], 0, -3, 100, 2)))
          .also({{{4, 3}}}, FN(slice(x[0], 1, 2, 1)))
          .refuses("slice: step 0 given; it must be at least 1", {{{3, 4}}},
                   FN(slice(x[0], 0, 0, 2, 0)))
          .refuses("slice: axis 2 given; a tensor of rank 2", {{{3, 4}}}, FN(slice(x[0], 2, 0, 2)))
          .refuses("slice: a tensor of rank 0 cannot be sliced", {{{}}}, FN(slice(x[0], 0, 0, 1))));
  t.push_back(
      moves("select",
            [](const Shape& s) {
              if (s.empty()) return none("a tensor of rank 0 has no axis");
              return Case{{{s}}, FN(select(x[0], -1, 0)), {}};
            })
          .aliases()
          .empty_refused("select: index 0 given for axis")
          .also({{{4, 3}}}, FN(select(x[0], 0, -2)))
          .refuses("select: index 4 given for axis 1 of shape (3, 4); -4 to 3 are accepted",
                   {{{3, 4}}}, FN(select(x[0], 1, 4)))
          .refuses("select: axis 2 given", {{{3, 4}}}, FN(select(x[0], 2, 0)))
          .refuses("select: a tensor of rank 0 has no axis", {{{}}}, FN(select(x[0], 0, 0))));
  t.push_back(
      moves("slice_scatter",
            [](const Shape& s) {
              if (s.empty()) return none("a tensor of rank 0 cannot be sliced");
              return Case{{{s}, {with_last(s, s.back() / 2)}},
                          FN(slice_scatter(x[0], x[1], -1, 0, s.back() / 2)),
                          {}};
            })
          .mixes("refused")
          .hides_nan("the source may replace the element")
          .also({{{5, 2}}, {{2, 2}}}, FN(slice_scatter(x[0], x[1], 0, 1, 5, 2)))
          .refuses("slice_scatter", {{{3, 4}}, {{3, 3}}}, FN(slice_scatter(x[0], x[1], 1, 0, 2)))
          .refuses("slice_scatter: source is int64 and x is float64; both must have one dtype",
                   {{{3, 4}}, index_to({3, 2}, 3)}, FN(slice_scatter(x[0], x[1], 1, 0, 2)))
          .refuses("slice_scatter: step 0 given", {{{3, 4}}, {{3, 2}}},
                   FN(slice_scatter(x[0], x[1], 1, 0, 2, 0))));
  t.push_back(
      moves("tril",
            [](const Shape& s) {
              return Case{{{matrix_shape(s)}}, FN(tril(x[0])), {}};
            })
          .hides_nan("the other triangle becomes zero")
          .also({{{3, 4}}}, FN(tril(x[0], 1)))
          .also({{{2, 3, 3}}}, FN(tril(x[0], -1)))
          .refuses("tril: shape (3,) given; rank 2 or more", {{{3}}}, FN(tril(x[0])))
          .refuses("tril: shape () given", {{{}}}, FN(tril(x[0])))
          .refuses("only floating", {index_to({3, 3}, 3)}, FN(tril(x[0]).requires_grad_())));
  t.push_back(
      moves("triu",
            [](const Shape& s) {
              return Case{{{matrix_shape(s)}}, FN(triu(x[0])), {}};
            })
          .also({{{3, 4}}}, FN(triu(x[0], 1)))
          .also({{{2, 3, 3}}}, FN(triu(x[0], -1)))
          .refuses("triu: shape (3,) given; rank 2 or more", {{{3}}}, FN(triu(x[0])))
          .refuses("triu: shape () given", {{{}}}, FN(triu(x[0])))
          .refuses("only floating", {index_to({3, 3}, 3)}, FN(triu(x[0]).requires_grad_())));
  t.push_back(moves("diag",
                    [](const Shape& s) {
                      return Case{{{matrix_shape(s)}}, FN(diag(x[0])), {}};
                    })
                  .aliases()
                  .also({{{3}}}, FN(diag(x[0], -1)))
                  .also({{{2, 3, 4}}}, FN(diag(x[0], 1)))
                  .refuses("diag: a tensor of rank 0 given; rank 1 or more", {{{}}}, FN(diag(x[0])))
                  .refuses("only floating", {index_to({3}, 3)}, FN(diag(x[0]).requires_grad_()))
                  .refuses("rank 2 accepts", {{{3}}}, FN(sum(diag(x[0]), {2}))));
  t.push_back(moves("as_strided", AT({Arg{s}}, as_strided(contiguous(x[0]), {numel(s)}, {1}, 0)))
                  .aliases()
                  .also({{{2, 4}}}, FN(as_strided(contiguous(x[0]), {3, 3}, {1, 1}, 1)))
                  .also({{{6}}}, FN(as_strided(contiguous(x[0]), {2, 3}, {0, 2}, 1)))
                  .refuses("as_strided: shape (3, 4) and strides (1,) given; one stride an axis",
                           {{{3, 4}}}, FN(as_strided(x[0], {3, 4}, Dims{1})))
                  .refuses("as_strided: shape (13,) with strides (1,) and offset 0 touches "
                           "elements 0 to 12; the storage of x has 0 to 11",
                           {{{3, 4}}}, FN(as_strided(x[0], {13}, {1})))
                  .refuses("as_strided: shape (2,) with strides (1,) and offset -1", {{{3, 4}}},
                           FN(as_strided(x[0], {2}, {1}, -1))));
  t.push_back(
      moves("contiguous", AT({Arg{s}}, contiguous(x[0])))
          .aliases()
          .also({{{2, 3}}}, FN(contiguous(transpose(x[0]))))
          .refuses("only floating", {flags({3})}, FN(contiguous(x[0]).requires_grad_()))
          .refuses("does not require gradients", {{{3}}},
                   FN(grad(contiguous(x[0].detach().requires_grad_()), x[0])))
          .refuses("only floating", {index_to({3}, 3)}, FN(contiguous(x[0]).requires_grad_())));
  t.push_back(moves("to", AT({Arg{s}}, to(to(x[0], Device::cpu()), test_device())))
                  .aliases()
                  .also({{{2, 3}}}, FN(to(to(transpose(x[0]), Device::cpu()), test_device())))
                  .refuses("Device::cuda: ", {{{3}}}, FN(to(x[0], Device::cuda(100))))
                  .refuses("Device::cuda: ", {{{3}}}, FN(to(x[0], Device::cuda(-1))))
                  .refuses("undefined tensor", {}, FN(to(Tensor(), Device::cpu()))));
  t.push_back(moves("clone", AT({Arg{s}}, clone(x[0])))
                  .also({{{2, 3}}}, FN(clone(transpose(x[0]))))
                  .refuses_usual()
                  .refuses("only floating", {index_to({3}, 3)}, FN(clone(x[0]).requires_grad_())));
}

}  // namespace flowgrad::testing
