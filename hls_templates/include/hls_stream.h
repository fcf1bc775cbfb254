// Copyright Tilewright contributors. SPDX-License-Identifier: Apache-2.0
//
// A first-in first-out channel for C simulation with the calls of the vendor's hls::stream.
// Reading an empty channel and leaving something in one end the program with status 97.
#ifndef TILEWRIGHT_HLS_STREAM_H
#define TILEWRIGHT_HLS_STREAM_H

#include <deque>
#include <string>

#include "tilewright_channel.h"

namespace hls {

template <typename T, int DEPTH = 2>
class stream {
  static_assert(DEPTH > 0, "a stream has room for one element at least");

 public:
  stream() : name_("stream"), n_written_(0), max_waiting_(0) {}
  explicit stream(const char *name) : name_(name), n_written_(0), max_waiting_(0) {}
  stream(const stream &) = delete;
  stream &operator=(const stream &) = delete;

  ~stream() {
    if (!waiting_.empty()) tilewright::channel_fault(name_, "elements are left over", n_written_);
    tilewright::log_channel(name_, DEPTH, n_written_, max_waiting_);
  }

  void set_name(const char *name) { name_ = name; }
  bool empty() const { return waiting_.empty(); }
  bool full() const { return static_cast<long>(waiting_.size()) >= DEPTH; }
  long size() const { return static_cast<long>(waiting_.size()); }

  void write(const T &value) {
    waiting_.push_back(value);
    n_written_++;
    if (size() > max_waiting_) max_waiting_ = size();
  }

  T read() {
    if (waiting_.empty()) tilewright::channel_fault(name_, "read while it is empty", n_written_);
    T value = waiting_.front();
    waiting_.pop_front();
    return value;
  }

  void read(T &value) { value = read(); }

 private:
  std::string name_;
  std::deque<T> waiting_;
  long n_written_;
  long max_waiting_;
};

template <typename T, int DEPTH>
void operator<<(stream<T, DEPTH> &channel, const T &value) {
  channel.write(value);
}

template <typename T, int DEPTH>
void operator>>(stream<T, DEPTH> &channel, T &value) {
  value = channel.read();
}

}  // namespace hls

#endif
