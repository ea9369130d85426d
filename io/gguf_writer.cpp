#include "io/gguf_writer.h"

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint32_t kGgufVersion = 3;

class HeaderText {
 public:
  template <typename T>
  void put(T number) {
    text_.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  void put_text(std::string_view text) {
    put(uint64_t{text.size()});
    text_ += text;
  }
  void put_value(const GgufMetadata::Value& value) {
    if (!value.array) {
      put(value.type);
      return value.type == GgufType::kText ? put_text(value.bytes) : put_raw(value.bytes);
    }
    put(GgufType::kArray);
    put(value.type);
    if (value.type != GgufType::kText) {
      put(value.bytes.size() / gguf_value_bytes(value.type));
      return put_raw(value.bytes);
    }
    put(uint64_t{value.texts.size()});
    for (size_t i = 0; i < value.texts.size(); ++i) put_text(value.texts[i]);
  }
  void put_raw(std::string_view bytes) { text_ += bytes; }
  std::string take() { return std::move(text_); }
  uint64_t size() const { return text_.size(); }
  void pad(uint64_t alignment) { text_.resize(align_up(text_.size(), alignment)); }

 private:
  std::string text_;
};

}  // namespace

uint64_t GgufTensorSpec::bytes() const {
  uint64_t rows = 1;
  for (size_t i = 1; i < ne.size(); ++i) rows *= ne[i];
  CHECK(!ne.empty() && ne[0] % traits_of(format).block_values == 0);
  return rows * row_bytes(format, ne[0]);
}

GgufLayout lay_out_gguf(const GgufMetadata& metadata, const std::vector<GgufTensorSpec>& tensors) {
  const uint64_t alignment = metadata.whole("general.alignment").value_or(kGgufAlignment);
  CHECK(alignment > 0 && (alignment & (alignment - 1)) == 0);
  HeaderText text;
  text.put_raw("GGUF");
  text.put(kGgufVersion);
  text.put(uint64_t{tensors.size()});
  text.put(uint64_t{metadata.values().size()});
  for (const auto& [key, value] : metadata.values()) {
    text.put_text(key);
    text.put_value(value);
  }
  GgufLayout layout;
  uint64_t offset = 0;
  for (const GgufTensorSpec& tensor : tensors) {
    text.put_text(tensor.name);
    text.put(static_cast<uint32_t>(tensor.ne.size()));
    for (const uint64_t size : tensor.ne) text.put(size);
    text.put(traits_of(tensor.format).gguf_id);
    text.put(offset);
    layout.offsets.push_back(offset);
    offset += align_up(tensor.bytes(), alignment);
  }
  text.pad(alignment);
  for (uint64_t& place : layout.offsets) place += text.size();
  layout.file_bytes = text.size() + offset;
  layout.header = text.take();
  return layout;
}

}  // namespace spillway
