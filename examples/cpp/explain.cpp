// Explains images with a file that agf-fx exported, in C++ alone: see README.md.
//
//   explain FILE IMAGES TARGET... [--maps MAPS]
//
// FILE    written by explainer.export(FILE, format="torchscript") or, ending in .pt2, by format="aoti"
// IMAGES  preprocessed images (N, C, H, W), one after the other as little-endian float32 numbers and nothing else
// TARGET  a class to explain; -1 for the image's highest-scoring class, -2 for the second, and so on
// MAPS    where to write the maps (N, K, H, W), in the same way

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using Maps = std::pair<at::Tensor, at::Tensor>; // (N, K, H, W) and logits (N, classes)

// An exported explainer: a function, and what the file says of itself (JSON).
struct Explainer {
  std::function<Maps(const at::Tensor& images, const at::Tensor& target)> run;
  std::string metadata;
};

struct Request {
  std::string file, images, maps;
  std::vector<int64_t> targets;
};

[[noreturn]] void fail(const std::string& message) {
  throw std::runtime_error(message);
}

Explainer load_torchscript(const std::string& file) {
  torch::jit::ExtraFilesMap extra{{"agf_fx.json", ""}};
  auto module = torch::jit::load(file, c10::nullopt, extra);
  auto run = [module](const at::Tensor& images, const at::Tensor& target) mutable {
    const auto result = module.forward({images, target}).toTuple();
    return Maps(result->elements()[0].toTensor(), result->elements()[1].toTensor());
  };
  return {run, extra["agf_fx.json"]};
}

Explainer load_aoti(const std::string& file) {
  auto loader = std::make_shared<torch::inductor::AOTIModelPackageLoader>(file);
  auto run = [loader](const at::Tensor& images, const at::Tensor& target) {
    const auto result = loader->run({images, target});
    return Maps(result.at(0), result.at(1));
  };
  return {run, loader->get_metadata()["agf_fx.json"]};
}

Explainer load(const std::string& file) {
  if (!std::ifstream(file))
    fail(file + ": cannot be read");
  const bool package = file.size() > 4 && file.compare(file.size() - 4, 4, ".pt2") == 0;
  auto explainer = package ? load_aoti(file) : load_torchscript(file);
  if (explainer.metadata.empty())
    fail(file + ": was not exported by agf-fx");
  return explainer;
}

// What stands behind a key of the metadata: its first number or the list of its numbers, or its text. Enough for flat
// JSON that agf-fx wrote; take a JSON library for more.
std::string field(const Explainer& explainer, const std::string& key) {
  const auto start = explainer.metadata.find("\"" + key + "\": ");
  if (start == std::string::npos)
    fail("the file's metadata has no " + key);
  const auto value = start + key.size() + 4;
  const auto end = explainer.metadata.find_first_of(explainer.metadata[value] == '[' ? "]" : ",}\n", value);
  auto text = explainer.metadata.substr(value, end - value);
  std::replace_if(text.begin(), text.end(), [](char c) { return c == '[' || c == ',' || c == '"'; }, ' ');
  return text;
}

template <typename T>
std::vector<T> values(const Explainer& explainer, const std::string& key) {
  std::istringstream text(field(explainer, key));
  return {std::istream_iterator<T>(text), std::istream_iterator<T>()};
}

// (N, C, H, W) for as many images as the file holds.
at::Tensor read_images(const std::string& path, std::vector<int64_t> shape) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream)
    fail(path + ": cannot be read");
  const std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  int64_t size = sizeof(float);
  for (const auto length : shape)
    size *= length;
  if (bytes.empty() || bytes.size() % size != 0)
    fail(path + ": has " + std::to_string(bytes.size()) + " bytes, which is no number of float32 images of " +
         std::to_string(size) + " bytes each");
  shape.insert(shape.begin(), bytes.size() / size);
  const auto images = at::empty(shape, at::kFloat);
  std::copy(bytes.begin(), bytes.end(), static_cast<char*>(images.data_ptr()));
  return images;
}

void write_maps(const std::string& path, const at::Tensor& maps) {
  const auto floats = maps.to(at::kFloat).contiguous();
  std::ofstream stream(path, std::ios::binary);
  stream.write(static_cast<const char*>(floats.data_ptr()), static_cast<std::streamsize>(floats.nbytes()));
  if (!stream.flush())
    fail(path + ": cannot be written");
}

void print(const at::Tensor& maps, const at::Tensor& logits, const std::vector<int64_t>& targets) {
  for (int64_t image = 0; image < maps.size(0); ++image) {
    const auto [score, top] = logits[image].max(0);
    std::cout << "image " << image << ": top class " << top.item<int64_t>() << ", logit " << score.item<double>()
              << "\n";
    for (size_t k = 0; k < targets.size(); ++k) {
      const auto map = maps[image][static_cast<int64_t>(k)];
      const auto highest = map.argmax().item<int64_t>();
      std::cout << "  target " << targets[k] << ": relevance from " << map.min().item<double>() << " to "
                << map.max().item<double>() << ", highest at row " << highest / map.size(1) << ", column "
                << highest % map.size(1) << "\n";
    }
  }
}

Request parse(int count, char** arguments) {
  Request request;
  std::vector<std::string> words(arguments + 1, arguments + count);
  const auto option = std::find(words.begin(), words.end(), "--maps");
  if (option != words.end() && option + 1 != words.end()) {
    request.maps = *(option + 1);
    words.erase(option, option + 2);
  }
  if (words.size() < 3)
    fail("usage: explain FILE IMAGES TARGET... [--maps MAPS]");
  request.file = words[0];
  request.images = words[1];
  for (size_t i = 2; i < words.size(); ++i) {
    std::istringstream text(words[i]);
    int64_t target = 0;
    if (!(text >> target) || !text.eof())
      fail("target " + words[i] + ": is not a class number");
    request.targets.push_back(target);
  }
  return request;
}

void explain(const Request& request) {
  const c10::InferenceMode inference;
  const auto explainer = load(request.file);
  if (values<std::string>(explainer, "dtype").at(0) != "float32")
    fail(request.file + ": takes other numbers than float32; convert the images here");
  const auto classes = values<int64_t>(explainer, "classes").at(0);
  for (const auto target : request.targets) {
    if (target < -classes || target >= classes)
      fail("target " + std::to_string(target) + ": there are " + std::to_string(classes) + " classes, counted from 0");
  }
  const auto images = read_images(request.images, values<int64_t>(explainer, "image_shape"));
  const auto target = at::tensor(request.targets).expand({images.size(0), -1}).contiguous();

  const c10::Device device(values<std::string>(explainer, "device").at(0));
  const auto [maps, logits] = explainer.run(images.to(device), target.to(device));
  print(maps.cpu(), logits.cpu(), request.targets);
  if (!request.maps.empty())
    write_maps(request.maps, maps.cpu());
}

} // namespace

int main(int count, char** arguments) {
  try {
    explain(parse(count, arguments));
    return 0;
  } catch (const c10::Error& error) { // PyTorch's own: the first line says what, the others where
    const std::string message = error.what_without_backtrace();
    std::cerr << "explain: " << message.substr(0, message.find('\n')) << "\n";
  } catch (const std::exception& error) {
    std::cerr << "explain: " << error.what() << "\n";
  }
  return 1;
}
