// The package as an artifact: media types, layer roles, and the config blob.
//
// Config blob (canonical JSON, keys sorted, no spaces; a function of the job's inputs only):
//   {"format": {"major": 1, "minor": 0},
//    "architecture": ArchitectureSpec (worker/model/architecture_spec.h),
//    "recipe": {what services/job/recipe.h says of the method: method, rotation, hessian,
//      group_size or whole_row, candidate_bits, head, seed, overrides, …},
//    "budget": {"planes"|"stored_bits"|"bytes": number}, "criterion": "guided"|…,
//    "uniform": true (only if one width for all was asked for),
//    "simulated": true (only method acc: raw layers, bits and stored_bytes as their codes would
//      take),
//    "layers": [{"name", "bits" (0 = raw), "rows", "cols", "digest", "stored_bytes"}…] in model
//      order (refined layers: their digests; stored_bytes are the candidates', which are the same),
//    "head": digest, "unquantized": digest, "tokenizer": digest, "config": digest,
//    "generation_config": digest (only if the source has one),
//    "exponent_sets": {"2": [[0,-1],…], "3": …, …} for every width in use (shift scales only),
//    "inputs": {"source": [{"path","bytes","digest"}…], "calibration": [digests],
//      "evaluation": [digests]},
//    "quantizer_version": "2", "device_class": "cpu-avx512-6-8f"|"gpu-…"|"any",
//    "quality": {kl, kl_standard_error, perplexity_full, perplexity_quantized, windows,
//      window_length, planes, stored_bits}}
//
// A layer blob is a safetensors file; "__metadata__": {"layer", "encoding" ("bcq/shift",
// "bcq/free", "bcq/block8"), "q", "rows", "cols", "group", "rotation" ("none", "wht128"),
// "block_rows" (block8)}, all strings; tensors "planes", "scale", "exponents", "alpha", "zeta" as
// kernels/packed_matrix.h says. A skipped layer: encoding "raw", one tensor "weight"; so is a
// layer of method acc, which no kernel can serve packed ("simulated": "acc", "simulated_planes").
// The head blob: for each of "embed" and, if not tied, "head": NAME.codes I8 [N,K] and NAME.scale
// F16 [N,G] with metadata "NAME.encoding": "int8/group", "NAME.group": "128"; or NAME (F32/F16/BF16
// [N,K]) with "NAME.encoding": "raw". The unquantized blob: norms and biases under their canonical
// names (F32), and "signs.K" U32 [ceil(K/32)] for every rotated input width K.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGE_FORMAT_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGE_FORMAT_H_

#include <string>
#include <vector>

namespace shiftadd {

inline constexpr int kPackageFormatMajor = 1;
inline constexpr int kPackageFormatMinor = 0;

inline constexpr char kManifestMediaType[] = "application/vnd.oci.image.manifest.v1+json";
inline constexpr char kPackageArtifactType[] = "application/vnd.shiftadd.package.v1";
inline constexpr char kConfigMediaType[] = "application/vnd.shiftadd.package.config.v1+json";
inline constexpr char kWeightsMediaType[] = "application/vnd.shiftadd.weights.v1.safetensors";
inline constexpr char kDocumentMediaType[] = "application/vnd.shiftadd.document.v1+json";
inline constexpr char kProvenanceArtifactType[] = "application/vnd.shiftadd.provenance.v1+json";
inline constexpr char kSignatureArtifactType[] = "application/vnd.shiftadd.signature.v1+json";
// PackageEvaluation of job.proto, its fields by their names there.
inline constexpr char kEvaluationArtifactType[] = "application/vnd.shiftadd.evaluation.v1+json";
// Annotation of a layer descriptor: the layer's canonical name, "head", "unquantized",
// "tokenizer.json", …
inline constexpr char kTitleAnnotation[] = "org.opencontainers.image.title";

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGE_FORMAT_H_
