#include "io/read_pump.h"

#include "core/error.h"

namespace spillway {

ReadPump::ReadPump(BlockReader& reader)
    : reader_(reader), ops_(reader.depth()), completions_(reader.depth()) {
  free_.reserve(ops_.size());
  again_.reserve(ops_.size());
  finished_.reserve(ops_.size());
  for (ReadOp& op : ops_) free_.push_back(&op);
}

ReadPump::~ReadPump() {
  drain();
}

bool ReadPump::start(const ReadRequest& request) {
  if (free_.empty()) return false;
  ReadOp* op = free_.back();
  *op = ReadOp{};
  op->file = request.file;
  op->offset = request.offset;
  op->target = request.target;
  op->bytes = request.bytes;
  op->needed = request.needed;
  op->buffer_index = request.buffer_index;
  op->tag = request.tag;
  if (!reader_.submit(*op)) return false;
  free_.pop_back();
  return true;
}

void ReadPump::resubmit_waiting() {
  while (!again_.empty() && reader_.submit(*again_.back())) again_.pop_back();
}

std::span<const uint64_t> ReadPump::poll() {
  finished_.clear();
  resubmit_waiting();
  const size_t count = reader_.poll(completions_);
  std::string message;
  bool failed = false;
  for (size_t i = 0; i < count; ++i) {
    ReadOp* op = completions_[i].op;
    std::string cause;
    switch (classify_read(*op, completions_[i].result, cause)) {
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

void ReadPump::drain() noexcept {
  while (active() > again_.size()) {
    const size_t count = reader_.poll(completions_);
    for (size_t i = 0; i < count; ++i) free_.push_back(completions_[i].op);
    if (count == 0) reader_.wait();
  }
  for (ReadOp* op : again_) free_.push_back(op);
  again_.clear();
}

}  // namespace spillway
