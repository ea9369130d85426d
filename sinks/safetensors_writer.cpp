#include "sinks/safetensors_writer.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kHeadAlignment = 8;

const char* element_name(Element element) {
  switch (element) {
    case Element::kF32:
      return "F32";
    case Element::kF16:
      return "F16";
    case Element::kBF16:
      return "BF16";
    case Element::kI32:
      return "I32";
    case Element::kU32:
      return "U32";
    case Element::kI64:
      return "I64";
  }
  return "?";
}

}  // namespace

uint64_t TensorShape::bytes() const {
  CHECK(!shape.empty());
  uint64_t product = element_bytes(element);
  for (size_t i = 0; i < shape.size(); ++i) {
    CHECK(i == 0 || shape[i] > 0);  // a row has a length
    CHECK(!__builtin_mul_overflow(product, shape[i], &product));
  }
  return product;
}

uint64_t TensorShape::row_bytes() const {
  uint64_t product = element_bytes(element);
  for (size_t i = 1; i < shape.size(); ++i) product *= shape[i];
  return product;
}

SafetensorsWriter::Layout SafetensorsWriter::lay_out(
    std::vector<TensorShape> tensors, const std::map<std::string, std::string>& metadata) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorShape& a, const TensorShape& b) {
    return element_bytes(a.element) > element_bytes(b.element);
  });
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  Layout layout;
  uint64_t offset = 0;
  for (TensorShape& tensor : tensors) {
    CHECK(!header.contains(tensor.name));
    const uint64_t end = offset + tensor.bytes();
    header[tensor.name] = {{"dtype", element_name(tensor.element)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    layout.places.push_back({std::move(tensor), offset, offset, end});
    offset = end;
  }
  std::string json = header.dump();
  json.resize(align_up(json.size(), kHeadAlignment), ' ');
  const uint64_t length = json.size();
  layout.head.assign(reinterpret_cast<const char*>(&length), sizeof(length));
  layout.head += json;
  for (Place& place : layout.places) {
    place.begin += layout.head.size();
    place.next += layout.head.size();
    place.end += layout.head.size();
  }
  layout.bytes = layout.head.size() + offset;
  return layout;
}

SafetensorsWriter::SafetensorsWriter(const OutputFolder& folder, const std::string& name,
                                     std::vector<TensorShape> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : SafetensorsWriter(folder, name, lay_out(std::move(tensors), metadata)) {}

SafetensorsWriter::SafetensorsWriter(const OutputFolder& folder, const std::string& name,
                                     Layout layout)
    : layout_(std::move(layout)), file_(folder, name, layout_.bytes) {
  write(0, layout_.head);
}

SafetensorsWriter::Place& SafetensorsWriter::place_of(std::string_view tensor) {
  const auto place = std::find_if(layout_.places.begin(), layout_.places.end(),
                                  [&](const Place& p) { return p.tensor.name == tensor; });
  CHECK(place != layout_.places.end());
  return *place;
}

void SafetensorsWriter::append_bytes(std::string_view tensor, bool (*fits)(Element),
                                     std::string_view bytes) {
  Place& place = place_of(tensor);
  CHECK(fits(place.tensor.element));
  if (bytes.empty()) return;
  CHECK(bytes.size() % place.tensor.row_bytes() == 0 && bytes.size() <= place.end - place.next);
  write(place.next, bytes);
  place.next += bytes.size();
}

/// What comes in the order of the file is hashed on the way.
void SafetensorsWriter::write(uint64_t offset, std::string_view bytes) {
  file_.write_at(offset, bytes);
  if (offset != hashed_) return;
  hash_.update(bytes);
  hashed_ += bytes.size();
}

/// What did not is read back, from the page cache mostly.
void SafetensorsWriter::hash_rest(const StopFlag& stop) {
  read_pieces(file_.fd(), file_.folder().text_of(file_.name()), hashed_, layout_.bytes, stop,
              [&](std::string_view piece) {
                hash_.update(piece);
                hashed_ += piece.size();
              });
}

ShardRecord SafetensorsWriter::publish(const StopFlag& stop) {
  for (const Place& place : layout_.places) CHECK(place.next == place.end);
  hash_rest(stop);
  file_.publish();
  return {file_.name(), layout_.bytes, hash_.digest()};
}

}  // namespace spillway
