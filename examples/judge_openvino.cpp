// SPDX-License-Identifier: Apache-2.0
//
// Judge 8-bit images with an OpenVINO export.
// Usage: judge_openvino exported/weights/openvino/model.xml part.ppm ...
//
// Images are binary PPM files, and model.json is searched for a key and its numbers, so that the example needs OpenVINO
// alone. A program for production takes an image library and a JSON library, and checks the sums in "sha256" too.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

static std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read.");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The numbers after a key, from a place of the text on; null and an empty list give none.
static std::vector<double> numbers(const std::string& json, const std::string& key, size_t from) {
    std::vector<double> found;
    const size_t place = json.find('"' + key + "\":", from);
    if (place == std::string::npos) return found;
    const char* next = json.c_str() + json.find_first_not_of(" [", place + key.size() + 3);
    char* end = nullptr;
    for (double number = std::strtod(next, &end); end != next; number = std::strtod(next, &end)) {
        found.push_back(number);
        next = end + (*end == ',');
    }
    return found;
}

// An image as the export takes it: shape (1, 3, height, width), RGB in [0, 1].
static ov::Tensor read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    size_t width = 0, height = 0, white = 0;
    file >> kind >> width >> height >> white;
    file.get();
    if (!file || kind != "P6" || white != 255 || width == 0 || height == 0)
        throw std::runtime_error(path + " is no binary PPM file of 8 bits without comments.");
    std::vector<unsigned char> pixels(3 * width * height);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size())))
        throw std::runtime_error(path + " ends too early.");
    ov::Tensor image(ov::element::f32, {1, 3, height, width});
    float* values = image.data<float>();
    for (size_t i = 0; i < width * height; ++i)
        for (size_t colour = 0; colour < 3; ++colour)
            values[colour * width * height + i] = static_cast<float>(pixels[3 * i + colour]) / 255.0f;
    return image;
}

int main(int count, char** arguments) try {
    if (count < 2) throw std::runtime_error("Usage: judge_openvino model.xml part.ppm ...");
    const std::filesystem::path model = arguments[1];
    const std::string json = read_file(std::filesystem::path(model).replace_extension(".json"));
    if (numbers(json, "format", 0) != std::vector<double>{1})
        throw std::runtime_error("model.json is of a format that this program does not know.");
    const std::vector<double> good = numbers(json, "good_scores", 0);
    const size_t raw = json.find("\"raw\":");
    const auto thresholds = numbers(json, "image_threshold", raw), ranges = numbers(json, "image_range", raw);
    if (thresholds.empty() || ranges.empty())
        throw std::runtime_error("The export knows no threshold: export a model whose training validated good images.");

    ov::Core core;
    // In OpenVINO's default precision scores move on processors with bfloat16.
    ov::CompiledModel compiled = core.compile_model(
        model.string(), "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = compiled.create_infer_request();  // one for each thread
    std::printf("file\tscore\tp_value\tverdict\tx\ty\traw_score\n");
    for (int i = 2; i < count; ++i) {
        const ov::Tensor image = read_ppm(arguments[i]);
        const ov::PartialShape expected = compiled.input().get_partial_shape();
        if (!expected.compatible(image.get_shape()))
            throw std::runtime_error(std::string(arguments[i]) + " is not of the size that the export is fixed to.");
        request.set_input_tensor(image);
        request.infer();

        const double score = request.get_tensor("pred_score").data<float>()[0];
        const bool defective = request.get_tensor("pred_label").data<bool>()[0];
        const ov::Tensor map = request.get_tensor("anomaly_map");
        const size_t rows = map.get_shape().at(map.get_shape().size() - 2), columns = map.get_shape().back();
        const float* values = map.data<float>();
        const size_t strongest = std::max_element(values, values + rows * columns) - values;
        const size_t x = (2 * (strongest % columns) + 1) * image.get_shape()[3] / (2 * columns);
        const size_t y = (2 * (strongest / columns) + 1) * image.get_shape()[2] / (2 * rows);
        const auto odder = std::count_if(good.begin(), good.end(), [&](double it) { return it >= score; });
        const double p_value = good.empty() ? NAN : (1.0 + odder) / (1.0 + good.size());
        std::printf("%s\t%.6f\t%.4f\t%s\t%zu\t%zu\t%.6f\n", arguments[i], score, p_value,
                    defective ? "defective" : "good", x, y, thresholds[0] + (score - 0.5) * ranges[0]);
    }
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
