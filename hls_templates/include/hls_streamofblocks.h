// Copyright Tilewright contributors. SPDX-License-Identifier: Apache-2.0
//
// A channel of arrays for C simulation with the calls of the vendor's hls::stream_of_blocks: a block
// is taken with a lock and handed on when the lock goes out of scope. Taking a block from an empty
// channel and leaving one in it end the program with status 97. A new block holds a pattern, as a real
// memory holds what was there before, so that code that counts on zeros is found.
#ifndef TILEWRIGHT_HLS_STREAMOFBLOCKS_H
#define TILEWRIGHT_HLS_STREAMOFBLOCKS_H

#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <type_traits>

#include "tilewright_channel.h"

namespace hls {

template <typename B>
class read_lock;
template <typename B>
class write_lock;

template <typename B>
class block_channel {
 public:
  // Memory is taken at the first access, so that a run that only counts needs none.
  struct block {
    B values;
  };
  typedef std::unique_ptr<block> handle;

  explicit block_channel(long depth)
      : name_("blocks"), depth_(depth), n_written_(0), max_waiting_(0), writing_(false), reading_(false) {}
  block_channel(const block_channel &) = delete;
  block_channel &operator=(const block_channel &) = delete;

  ~block_channel() {
    if (!waiting_.empty()) tilewright::channel_fault(name_, "blocks are left over", n_written_);
    tilewright::log_channel(name_, depth_, n_written_, max_waiting_);
  }

  void set_name(const char *name) { name_ = name; }
  bool empty() const { return waiting_.empty(); }
  bool full() const { return static_cast<long>(waiting_.size()) >= depth_; }

 private:
  friend class read_lock<B>;
  friend class write_lock<B>;

  void start_write() {
    if (writing_) tilewright::channel_fault(name_, "written while a block is being written", n_written_);
    writing_ = true;
  }

  void end_write(handle done) {
    writing_ = false;
    waiting_.push_back(std::move(done));
    n_written_++;
    const long n_waiting = static_cast<long>(waiting_.size());
    if (n_waiting > max_waiting_) max_waiting_ = n_waiting;
  }

  handle start_read() {
    if (reading_) tilewright::channel_fault(name_, "read while a block is being read", n_written_);
    if (waiting_.empty()) tilewright::channel_fault(name_, "read while it is empty", n_written_);
    reading_ = true;
    handle next = std::move(waiting_.front());
    waiting_.pop_front();
    return next;
  }

  void end_read() { reading_ = false; }

  std::string name_;
  long depth_;
  std::deque<handle> waiting_;
  long n_written_;
  long max_waiting_;
  bool writing_;
  bool reading_;
};

template <typename B, int DEPTH = 2>
class stream_of_blocks : public block_channel<B> {
  static_assert(DEPTH > 0, "a stream of blocks has room for one block at least");

 public:
  stream_of_blocks() : block_channel<B>(DEPTH) {}
};

template <typename B>
class block_access {
 public:
  typename std::remove_extent<B>::type &operator[](int index) {
    if (!held_) {
      held_.reset(new typename block_channel<B>::block);
      std::memset(static_cast<void *>(held_.get()), 0x5a, sizeof(B));
    }
    return held_->values[index];
  }

 protected:
  typename block_channel<B>::handle held_;
};

template <typename B>
class write_lock : public block_access<B> {
 public:
  explicit write_lock(block_channel<B> &channel) : channel_(channel) { channel_.start_write(); }
  ~write_lock() { channel_.end_write(std::move(this->held_)); }
  write_lock(const write_lock &) = delete;
  write_lock &operator=(const write_lock &) = delete;

 private:
  block_channel<B> &channel_;
};

template <typename B>
class read_lock : public block_access<B> {
 public:
  explicit read_lock(block_channel<B> &channel) : channel_(channel) { this->held_ = channel_.start_read(); }
  ~read_lock() { channel_.end_read(); }
  read_lock(const read_lock &) = delete;
  read_lock &operator=(const read_lock &) = delete;

 private:
  block_channel<B> &channel_;
};

}  // namespace hls

#endif
