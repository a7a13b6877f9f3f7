#include "autograd/op_table.h"

// Joining, splitting and moving elements; indexing and sorting.
namespace flowgrad::testing {
namespace {

const char* kNoAxis = "a tensor of rank 0 has no axis";

}  // namespace

void add_join_rows(std::vector<Op>& t) {
  t.push_back(
      moves("flip", AT({Arg{s}}, flip(x[0], s.empty() ? Dims{} : Dims{-1})))
          .also({{{2, 3, 2}}}, FN(flip(x[0], {0, 2})))
          .refuses("flip: axis 0 is named twice in (0, -2)", {{{3, 4}}}, FN(flip(x[0], {0, -2})))
          .refuses("flip: axis 2 given; a tensor of rank 2", {{{3, 4}}}, FN(flip(x[0], {2})))
          .refuses("flip: axis -3 given", {{{3, 4}}}, FN(flip(x[0], {-3}))));
  t.push_back(
      moves("roll",
            [](const Shape& s) {
              return s.empty() ? none(kNoAxis) : Case{{{s}}, FN(roll(x[0], 1, -1)), {}};
            })
          .also({{{3, 2}}}, FN(roll(x[0], -4, 0)))
          .refuses("roll: axis 2 given; a tensor of rank 2", {{{3, 4}}}, FN(roll(x[0], 1, 2)))
          .refuses("roll: axis -3 given", {{{3, 4}}}, FN(roll(x[0], 1, -3)))
          .refuses("roll: a", {{{}}}, FN(roll(x[0], 1, 1))));
  t.push_back(
      moves("pad",
            [](const Shape& s) {
              std::vector<std::pair<int64_t, int64_t>> pads(s.size(), {1, 0});
              return Case{{{s}}, FN(pad(x[0], pads, 0.5)), {}};
            })
          .also({{{2, 3}}}, FN(pad(x[0], {{0, 2}, {1, 1}})))
          .refuses("pad: 1 pairs given for shape (3, 4); one for each of its 2 axes", {{{3, 4}}},
                   FN(pad(x[0], {{1, 1}})))
          .refuses("pad: (-1, 0) given for axis 0; amounts of at least 0 are accepted, use slice",
                   {{{3, 4}}}, FN(pad(x[0], {{-1, 0}, {0, 0}})))
          .refuses("pad: (0, 9223372036854775807) given for axis 1; the size overflows", {{{3, 4}}},
                   FN(pad(x[0], {{0, 0}, {0, INT64_MAX}}))));
  t.push_back(
      moves("concat",
            [](const Shape& s) {
              return s.empty() ? none(kNoAxis) : Case{{{s}, {s}}, FN(concat({x[0], x[1]}, -1)), {}};
            })
          .mixes("float64")
          .also({{{2, 1}}, {{2, 2}}, {{2, 0}}}, FN(concat(x, 1)))
          .refuses("concat: no tensors given", {{{3}}}, FN(concat(x.first(0))))
          .refuses("concat: part 1 has shape (3,) and part 0 (3, 4); the ranks must be equal",
                   {{{3, 4}}, {{3}}}, FN(concat(x)))
          .refuses("concat: part 1 has shape (2, 5) and part 0 (3, 4); axis 1 must be 4, only axis "
                   "0 may differ",
                   {{{3, 4}}, {{2, 5}}}, FN(concat(x)))
          .refuses("concat: a tensor of rank 0 has no axis", {{{}}, {{}}}, FN(concat(x))));
  t.push_back(moves("stack", AT((std::vector<Arg>{{s}, {s}}), stack({x[0], x[1]}, 0)))
                  .mixes("float64")
                  .also({{{2, 3}}, {{2, 3}}}, FN(stack(x, -1)))
                  .refuses("stack: no tensors given", {{{3}}}, FN(stack(x.first(0))))
                  .refuses("stack: part 1 has shape (3, 5) and part 0 (3, 4); all must be equal",
                           {{{3, 4}}, {{3, 5}}}, FN(stack(x)))
                  .refuses("stack: axis 3 given", {{{3, 4}}, {{3, 4}}}, FN(stack(x, 3))));
  t.push_back(
      moves("split",
            [](const Shape& s) {
              if (s.empty()) return none(kNoAxis);
              const int64_t half = s.back() / 2;
              return Case{{{s}}, FN(split(x[0], {half, s.back() - half}, -1)), {}};
            })
          .aliases()
          .also({{{4, 3}}}, FN(split(x[0], {1, 0, 3})))
          .refuses("split: sizes [1, 1] given for axis 0 of shape (3, 4); they must add up to 3",
                   {{{3, 4}}}, FN(split(x[0], {1, 1})))
          .refuses("split: size -1 given for part 0", {{{3, 4}}}, FN(split(x[0], {-1, 4})))
          .refuses("split: axis 2 given", {{{3, 4}}}, FN(split(x[0], {3}, 2))));
  t.push_back(moves("chunk",
                    [](const Shape& s) {
                      return s.empty() ? none(kNoAxis) : Case{{{s}}, FN(chunk(x[0], 3, -1)), {}};
                    })
                  .aliases()
                  .also({{{5, 2}}}, FN(chunk(x[0], 2)))
                  .refuses("chunk: n = 0 given; at least 1", {{{3, 4}}}, FN(chunk(x[0], 0)))
                  .refuses("chunk: axis 2 given", {{{3, 4}}}, FN(chunk(x[0], 2, 2)))
                  .refuses("chunk: a tensor of rank 0 has no axis", {{{}}}, FN(chunk(x[0], 2))));
  t.push_back(moves("unbind",
                    [](const Shape& s) {
                      return s.empty() ? none(kNoAxis) : Case{{{s}}, FN(unbind(x[0], -1)), {}};
                    })
                  .aliases()
                  .sizes_to(257)
                  .also({{{2, 3}}}, FN(unbind(x[0])))
                  .refuses("unbind: axis 2 given", {{{3, 4}}}, FN(unbind(x[0], 2)))
                  .refuses("unbind: axis -3 given", {{{3, 4}}}, FN(unbind(x[0], -3)))
                  .refuses("unbind: a tensor of rank 0 has no axis", {{{}}}, FN(unbind(x[0]))));
  t.push_back(
      moves("repeat",
            [](const Shape& s) {
              Dims counts = Dims::filled(s.rank(), 1);
              if (!s.empty()) counts[0] = 2;
              return Case{{{s}}, FN(repeat(x[0], counts)), {}};
            })
          .also({{{2, 3}}}, FN(repeat(x[0], {2, 1, 2})))
          .refuses("repeat: counts (2,) given for shape (3, 4); at least one an axis", {{{3, 4}}},
                   FN(repeat(x[0], Dims{2})))
          .refuses("repeat: count -1 given for axis 1", {{{3, 4}}}, FN(repeat(x[0], {1, -1})))
          .refuses("a size overflows", {{{3, 4}}}, FN(repeat(x[0], {1, INT64_MAX}))));
}

void add_index_rows(std::vector<Op>& t) {
  const char* index_dtype = "index is float64; int64 is accepted";
  t.push_back(
      moves("gather",
            [](const Shape& s) {
              if (last(s) == 0)
                return Case{{{s}, index_to(with_last(s, 0), 1)}, FN(gather(x[0], -1, x[1])), {}};
              return Case{
                  {{s}, index_to(s, last(s))}, FN(gather(x[0], s.empty() ? 0 : -1, x[1])), {}};
            })
          .mixes("refused")
          .hides_nan("the index may leave the element out")
          .also({{{4, 3}}, index_to({5, 2}, 4)}, FN(gather(x[0], 0, x[1])))
          .refuses("gather: index has shape (3,) and x (3, 4); the ranks must be equal",
                   {{{3, 4}}, index_to({3}, 3)}, FN(gather(x[0], 0, x[1])))
          .refuses("gather: index has shape (2, 5) and x (3, 4); axis 1 of index (5) must not "
                   "exceed that of x (4)",
                   {{{3, 4}}, index_to({2, 5}, 3)}, FN(gather(x[0], 0, x[1])))
          .refuses(index_dtype, {{{3}}, {{3}}}, FN(gather(x[0], 0, x[1])))
          .refuses("gather: index 3 given at element 0 of index (1,); 0 to 2 are accepted",
                   {{{3}}, {{1}, 3, 4, Fill::index}}, FN(gather(x[0], 0, x[1]))));
  const auto scatter = [](Tensor (*f)(const Tensor&, int64_t, const Tensor&, const Tensor&)) {
    return [f](const Shape& s) {
      return Case{{{s}, index_to(s, std::max<int64_t>(1, last(s))), {s}},
                  FN(f(x[0], s.empty() ? 0 : -1, x[1], x[2])),
                  {}};
    };
  };
  t.push_back(
      Op{"scatter_add", scatter(scatter_add)}
          .smooth()
          .dtypes("int64 refused refused")
          .mixes("refused")
          .also({{{4, 3}}, index_to({5, 2}, 4), {{5, 2}}}, FN(scatter_add(x[0], 0, x[1], x[2])))
          .refuses("scatter_add: source has shape (3,) and index (2,); they must be equal",
                   {{{3}}, index_to({2}, 3), {{3}}}, FN(scatter_add(x[0], 0, x[1], x[2])))
          .refuses("scatter_add: index -1 given at element 0 of index (2,); 0 to 2",
                   {{{3}}, {{2}, -1, 0, Fill::index}, {{2}}}, FN(scatter_add(x[0], 0, x[1], x[2])))
          .refuses("scatter_add: source is int64 and x is float64",
                   {{{3}}, index_to({2}, 3), index_to({2}, 3)},
                   FN(scatter_add(x[0], 0, x[1], x[2]))));
  t.push_back(
      Op{"scatter_max", scatter(scatter_max)}
          .dtypes("int64 refused refused")
          .mixes("refused")
          .also({{{4, 3}}, index_to({5, 2}, 4), {{5, 2}}}, FN(scatter_max(x[0], 0, x[1], x[2])))
          .refuses("scatter_max: source has shape (3,) and index (2,)",
                   {{{3}}, index_to({2}, 3), {{3}}}, FN(scatter_max(x[0], 0, x[1], x[2])))
          .refuses("scatter_max: index 5 given at element 0",
                   {{{3}}, {{2}, 5, 6, Fill::index}, {{2}}}, FN(scatter_max(x[0], 0, x[1], x[2])))
          .refuses("scatter_max: axis 1 given; a tensor of rank 1",
                   {{{3}}, index_to({2}, 3), {{2}}}, FN(scatter_max(x[0], 1, x[1], x[2]))));
  t.push_back(moves("index_select",
                    [](const Shape& s) {
                      if (s.empty()) return none("x has rank 0");
                      return Case{{{s}, index_to({s.back() == 0 ? 0 : 4}, s.back())},
                                  FN(index_select(x[0], -1, x[1])),
                                  {}};
                    })
                  .mixes("refused")
                  .hides_nan("the index may leave the element out")
                  .also({{{4, 3}}, index_to({5}, 4)}, FN(index_select(x[0], 0, x[1])))
                  .refuses("index_select: index has shape (2, 2); rank 1",
                           {{{3}}, index_to({2, 2}, 3)}, FN(index_select(x[0], 0, x[1])))
                  .refuses("index_select: index 7 given at element 0 of index (2,); 0 to 2",
                           {{{3}}, {{2}, 7, 8, Fill::index}}, FN(index_select(x[0], 0, x[1])))
                  .refuses("index_select: x has rank 0", {{{}}, index_to({2}, 1)},
                           FN(index_select(x[0], 0, x[1]))));
  t.push_back(
      Op{"index_add",
         [](const Shape& s) {
           if (s.empty()) return none("x has rank 0");
           const int64_t n = s.back() == 0 ? 0 : 4;
           return Case{{{s}, index_to({n}, s.back()), {with_last(s, n)}},
                       FN(index_add(x[0], -1, x[1], x[2])),
                       {}};
         }}
          .smooth()
          .dtypes("int64 refused refused")
          .mixes("refused")
          .also({{{4, 3}}, index_to({5}, 4), {{5, 3}}}, FN(index_add(x[0], 0, x[1], x[2])))
          .refuses("index_add: source has shape (2,); x (3,) with 3 indices on axis 0 accepts (3,)",
                   {{{3}}, index_to({3}, 3), {{2}}}, FN(index_add(x[0], 0, x[1], x[2])))
          .refuses("index_add: index 3 given at element 0",
                   {{{3}}, {{2}, 3, 4, Fill::index}, {{2}}}, FN(index_add(x[0], 0, x[1], x[2])))
          .refuses("index_add: index is float64", {{{3}}, {{2}}, {{2}}},
                   FN(index_add(x[0], 0, x[1], x[2]))));
  t.push_back(moves("embedding",
                    [](const Shape& s) {
                      return Case{{{{5, 2}}, index_to(s, 5)}, FN(embedding(x[0], x[1])), {}};
                    })
                  .mixes("refused")
                  .hides_nan("the index may leave the row out")
                  .also({{{4, 3}}, index_to({2, 3}, 4)}, FN(embedding(x[0], x[1])))
                  .refuses("embedding: weight has shape (3,); rank 2", {{{3}}, index_to({2}, 3)},
                           FN(embedding(x[0], x[1])))
                  .refuses("embedding: index 4 given at element 0 of index (2,); 0 to 3",
                           {{{4, 3}}, {{2}, 4, 5, Fill::index}}, FN(embedding(x[0], x[1])))
                  .refuses("embedding: padding_index 4 given; 0 to 3", {{{4, 3}}, index_to({2}, 3)},
                           FN(embedding(x[0], x[1], 4))));
  t.push_back(Op{"one_hot", AT({index_to(s, 5)}, one_hot(x[0], 5, DType::float64))}
                  .constant()
                  .dtypes("no floating argument")
                  .mixes("one tensor")
                  .sizes_to(1025)
                  .hides_nan("the arguments are integers")
                  .refuses("one_hot: classes = 0 given; at least 1", {index_to({3}, 2)},
                           FN(one_hot(x[0], 0)))
                  .refuses("one_hot: index 5 given at element 0 of index (2,); 0 to 4",
                           {{{2}, 5, 6, Fill::index}}, FN(one_hot(x[0], 5)))
                  .refuses("one_hot: index is float64", {{{3}}}, FN(one_hot(x[0], 5))));
  t.push_back(Op{"sort", AT({Arg{s}}, sort(x[0]))}
                  .dtypes("int64 bool refused")
                  .mixes("one tensor")
                  .also({{{3, 2}}}, FN(sort(x[0], 0, true)))
                  .refuses("sort: axis 2 given; a tensor of rank 2", {{{3, 4}}}, FN(sort(x[0], 2)))
                  .refuses("sort: axis -3 given", {{{3, 4}}}, FN(sort(x[0], -3)))
                  .refuses("sort: x is bfloat16", {{{3}}}, FN(sort(cast(x[0], DType::bfloat16)))));
  t.push_back(Op{"topk", AT({Arg{s}}, topk(x[0], std::min<int64_t>(3, last(s))))}
                  .dtypes("int64 bool refused")
                  .mixes("one tensor")
                  .also({{{3, 2}}}, FN(topk(x[0], 2, 0, false)))
                  .refuses("topk: k = 5 given for axis 1 of shape (3, 4); 0 to 4 are accepted",
                           {{{3, 4}}}, FN(topk(x[0], 5)))
                  .refuses("topk: k = -1 given for axis 1", {{{3, 4}}}, FN(topk(x[0], -1)))
                  .refuses("topk: axis 2 given", {{{3, 4}}}, FN(topk(x[0], 1, 2))));
}

}  // namespace flowgrad::testing
