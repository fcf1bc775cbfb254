// Copyright Tilewright contributors. SPDX-License-Identifier: Apache-2.0
//
// What the C simulation knows of every channel, and how it ends when a channel is misused.
#ifndef TILEWRIGHT_CHANNEL_H
#define TILEWRIGHT_CHANNEL_H

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace tilewright {

// Tokens that passed a channel, summed over its lives, and the most that waited in it at once.
// A C simulation runs the processes of a DATAFLOW region one after the other, so a channel may hold
// more than its depth there: the depth is reported beside the maximum, never enforced.
struct channel_record {
  long depth;
  long n_tokens;
  long max_waiting;
};

inline std::map<std::string, channel_record> &channel_log() {
  static std::map<std::string, channel_record> records;
  return records;
}

inline void log_channel(const std::string &name, long depth, long n_tokens, long max_waiting) {
  channel_record &record = channel_log()[name];
  record.depth = depth;
  record.n_tokens += n_tokens;
  if (max_waiting > record.max_waiting) record.max_waiting = max_waiting;
}

[[noreturn]] inline void channel_fault(const std::string &name, const char *what, long n_tokens) {
  std::fprintf(stderr, "channel '%s': %s after %ld tokens\n", name.c_str(), what, n_tokens);
  std::_Exit(97);
}

}  // namespace tilewright

#endif
