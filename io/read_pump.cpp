#include "io/read_pump.h"

#include <algorithm>

#include "core/error.h"

namespace spillway {

ReadPump::ReadPump(BlockReader& reader, const Clock& clock)
    : reader_(reader), clock_(clock), ops_(reader.depth()), completions_(reader.depth()) {
  free_.reserve(ops_.size());
  again_.reserve(ops_.size());
  finished_.reserve(ops_.size());
  for (ReadOp& op : ops_) free_.push_back(&op);
}

ReadPump::~ReadPump() {
  static_cast<void>(drain());
}

bool ReadPump::start(const ReadRequest& request) {
  if (free_.empty() || abandoned_) return false;
  ReadOp* op = free_.back();
  *op = ReadOp{};
  op->file = request.file;
  op->offset = request.offset;
  op->target = request.target;
  op->bytes = request.bytes;
  op->needed = request.needed;
  op->tag = request.tag;
  op->kind = request.kind;
  if (!reader_.submit(*op)) return false;
  op->in_flight = true;
  free_.pop_back();
  return true;
}

/// Those whose time has come; the reader may be full.
void ReadPump::resubmit_waiting() {
  if (again_.empty()) return;
  const int64_t now_ns = clock_.now_ns();
  for (size_t i = again_.size(); i-- > 0;) {
    ReadOp* op = again_[i];
    if (op->not_before_ns > now_ns) continue;
    if (!reader_.submit(*op)) return;
    op->in_flight = true;
    again_.erase(again_.begin() + static_cast<ptrdiff_t>(i));
  }
}

std::span<const uint64_t> ReadPump::poll() {
  finished_.clear();
  resubmit_waiting();
  const size_t count = reader_.poll(completions_);
  std::string message;
  bool failed = false;
  for (size_t i = 0; i < count; ++i) {
    ReadOp* op = completions_[i].op;
    op->in_flight = false;
    std::string cause;
    const auto classify = op->kind == IoKind::kWrite ? classify_write : classify_read;
    switch (classify(*op, completions_[i].result, clock_, cause)) {
      case ReadOutcome::kDone:
        finished_.push_back(op->tag);
        free_.push_back(op);
        break;
      case ReadOutcome::kAgain:
        again_.push_back(op);
        break;
      case ReadOutcome::kFailed:
        free_.push_back(op);
        if (!failed) message = cause;
        failed = true;
        break;
    }
  }
  if (failed) throw Error(message);
  resubmit_waiting();
  return finished_;
}

void ReadPump::wait(int64_t limit_ns) {
  if (active() == 0) return;
  if (!again_.empty()) {
    int64_t due_ns = INT64_MAX;
    for (const ReadOp* op : again_) due_ns = std::min(due_ns, op->not_before_ns);
    const int64_t left_ns = std::max<int64_t>(0, due_ns - clock_.now_ns());
    // One that is due and still here found the reader full: a completion must come first.
    if (left_ns > 0 || in_flight() == 0) limit_ns = std::min(limit_ns, left_ns);
  }
  reader_.wait(limit_ns);
}

bool ReadPump::drain() noexcept {
  if (abandoned_) return false;
  for (ReadOp* op : again_) free_.push_back(op);
  again_.clear();
  for (ReadOp& op : ops_) {
    if (op.in_flight) reader_.cancel(op);
  }
  abandoned_ = !await_in_flight();
  return !abandoned_;
}

bool ReadPump::await_in_flight() noexcept {
  const int64_t end_ns = clock_.now_ns() + kDrainLimitNs;
  try {
    while (in_flight() > 0) {
      const size_t count = reader_.poll(completions_);
      for (size_t i = 0; i < count; ++i) {
        completions_[i].op->in_flight = false;
        free_.push_back(completions_[i].op);
      }
      if (count > 0) continue;
      const int64_t left_ns = end_ns - clock_.now_ns();
      if (left_ns <= 0) return false;
      reader_.wait(left_ns);
    }
  } catch (...) {  // the reader is broken: nobody will say when these reads are over
    return false;
  }
  return true;
}

}  // namespace spillway
