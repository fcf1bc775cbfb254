// Copyright Tilewright contributors. SPDX-License-Identifier: Apache-2.0
//
// Counts what the loops of a generated kernel really do in a C simulation.
#ifndef TILEWRIGHT_CSIM_H
#define TILEWRIGHT_CSIM_H

#include <map>
#include <utility>

#include "tilewright_channel.h"

namespace tilewright {

// Executions of the leaf of nest `second` of stage `first`.
inline std::map<std::pair<int, int>, long> &leaf_counts() {
  static std::map<std::pair<int, int>, long> counts;
  return counts;
}

}  // namespace tilewright

#define TW_LEAF(stage, nest) ++tilewright::leaf_counts()[std::make_pair(stage, nest)];
#define TW_NAME(channel) channel.set_name(#channel);

#endif
