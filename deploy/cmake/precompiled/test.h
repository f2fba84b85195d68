// What every test includes besides.
#ifndef SHIFTADD_CMAKE_PRECOMPILED_TEST_H_
#define SHIFTADD_CMAKE_PRECOMPILED_TEST_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#endif  // SHIFTADD_CMAKE_PRECOMPILED_TEST_H_
