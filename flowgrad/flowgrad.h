/// Everything a program that uses flowgrad includes.
#pragma once

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"
