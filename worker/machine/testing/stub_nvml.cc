// A libnvidia-ml.so.1 for tests, beside stub_cuda.cc: it knows its version only.
//   SHIFTADD_STUB_DRIVER  580.65.06 by default
#include <cstdlib>
#include <cstring>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlSystemGetDriverVersion(char* version, unsigned size) {
  const char* const text = std::getenv("SHIFTADD_STUB_DRIVER");
  const char* const said = text == nullptr ? "580.65.06" : text;
  if (std::strlen(said) >= size) return 7;  // NVML_ERROR_INSUFFICIENT_SIZE
  std::strcpy(version, said);
  return 0;
}

}  // extern "C"
