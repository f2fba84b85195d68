# The fused quantization kernels. Included by kernels/CMakeLists.txt. nvcc 12.1 or later: a launch has up to 13 KB of
# parameters.
set(_quantize_sources descent.cu elementwise.cu group_fit.cu long_fit.cu long_groups.cu long_round.cu long_start.cu pack.cu quantizer.cu refit.cu
    split_gemm.cu)
list(TRANSFORM _quantize_sources PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/cuda/quantize/")

# For CUDA, where it is built: shiftadd::kernels_cuda_quantize.
if(SHIFTADD_CUDA)
  add_library(shiftadd_kernels_cuda_quantize STATIC ${_quantize_sources})
  add_library(shiftadd::kernels_cuda_quantize ALIAS shiftadd_kernels_cuda_quantize)
  target_link_libraries(shiftadd_kernels_cuda_quantize PUBLIC shiftadd_kernels
                        PRIVATE CUDA::cudart_static)
  set_target_properties(shiftadd_kernels_cuda_quantize PROPERTIES
    POSITION_INDEPENDENT_CODE ON EXPORT_NAME kernels_cuda_quantize
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static)
  install(TARGETS shiftadd_kernels_cuda_quantize EXPORT shiftadd_kernels
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()

# The same sources for the CPU, every CUDA thread a fiber: tests only. Not under the sanitizers,
# which do not follow fibers.
if(NOT SHIFTADD_SANITIZE)
  set(_emulated "")
  foreach(_source IN LISTS _quantize_sources)
    get_filename_component(_name "${_source}" NAME_WE)
    set(_unit "${CMAKE_CURRENT_BINARY_DIR}/emulated/${_name}.cc")
    file(CONFIGURE OUTPUT "${_unit}" CONTENT "#include \"${_source}\"\n")
    list(APPEND _emulated "${_unit}")
  endforeach()
  add_library(shiftadd_kernels_quantize_emulated STATIC EXCLUDE_FROM_ALL ${_emulated})
  target_link_libraries(shiftadd_kernels_quantize_emulated PUBLIC shiftadd_kernels)
  target_compile_definitions(shiftadd_kernels_quantize_emulated PUBLIC SHIFTADD_CUDA_EMULATED)
  target_compile_options(shiftadd_kernels_quantize_emulated PRIVATE
                         -ffp-contract=off -Wno-unknown-pragmas)
endif()
