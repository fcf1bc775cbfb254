// Copyright Tilewright contributors. SPDX-License-Identifier: Apache-2.0
//
// N elements side by side, with the calls of the vendor's hls::vector that generated code uses.
#ifndef TILEWRIGHT_HLS_VECTOR_H
#define TILEWRIGHT_HLS_VECTOR_H

#include <array>
#include <cstddef>

namespace hls {

template <typename T, std::size_t N>
class vector {
 public:
  T &operator[](std::size_t lane) { return lanes_.at(lane); }
  const T &operator[](std::size_t lane) const { return lanes_.at(lane); }

 private:
  std::array<T, N> lanes_;
};

}  // namespace hls

#endif
