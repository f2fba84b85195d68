# The CUDA kernels, a library of its own: shiftadd::kernels_cuda. Included by kernels/CMakeLists.txt.
set(SHIFTADD_CUDA_ARCHITECTURES "80-real;90a-real" CACHE STRING
    "GPU architectures, as CMAKE_CUDA_ARCHITECTURES; 80 and later work, only 90a was ever run")
set(CMAKE_CUDA_ARCHITECTURES "${SHIFTADD_CUDA_ARCHITECTURES}")
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(SHIFTADD_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(SHIFTADD_NVCC)
    set(CMAKE_CUDA_COMPILER "${SHIFTADD_NVCC}")
  endif()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.1)
  message(FATAL_ERROR "The CUDA kernels need nvcc 12.1 or later; found "
                      "${CMAKE_CUDA_COMPILER_VERSION} at ${CMAKE_CUDA_COMPILER}. Set CUDACXX, or SHIFTADD_CUDA=OFF.")
endif()

add_library(shiftadd_kernels_cuda STATIC
  cuda/activations.cc
  cuda/binary.cu
  cuda/cublas.cc
  cuda/dense.cu
  cuda/gather.cu
  cuda/half.cu
  cuda/integer.cu
  cuda/linear.cc
  cuda/multiply.cc
  cuda/plain.cu
  cuda/prepare.cu
  cuda/prompt.cu
  cuda/repack.cu
  cuda/shift_table.cc
  cuda/status.cc
  cuda/workspace.cc)
add_library(shiftadd::kernels_cuda ALIAS shiftadd_kernels_cuda)
target_link_libraries(shiftadd_kernels_cuda PUBLIC shiftadd_kernels PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
# What --version says of it. Code for 9.0 was run, on an H100; "-virtual" and families never.
set(_code "")
set(_never_run "")
foreach(_architecture ${SHIFTADD_CUDA_ARCHITECTURES})
  string(REGEX REPLACE "-real$" "" _name "sm_${_architecture}")
  list(APPEND _code "${_name}")
  if(NOT _name MATCHES "^sm_90a?$")
    list(APPEND _never_run "${_name}")
  endif()
endforeach()
string(REPLACE ";" ", " _code "${_code}")
string(REPLACE ";" ", " _never_run "${_never_run}")
if(_never_run)
  string(APPEND _code " (never run: ${_never_run})")
endif()
set_source_files_properties(build_info.cc PROPERTIES COMPILE_DEFINITIONS
  "SHIFTADD_CUDA_CODE=\"${_code}, run on compute capability 9.0 (H100) only\"")
set_target_properties(shiftadd_kernels_cuda PROPERTIES
  POSITION_INDEPENDENT_CODE ON EXPORT_NAME kernels_cuda
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static)
# FMAs are written where they are meant: elsewhere operations are the CPU's, bit for bit.
target_compile_options(shiftadd_kernels_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false>
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
install(TARGETS shiftadd_kernels_cuda EXPORT shiftadd_kernels
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
