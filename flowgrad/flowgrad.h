/// Everything a program that uses flowgrad includes.
#pragma once

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/graph.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/core/error.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/random.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/core/tensor.h"
#include "flowgrad/models/layers.h"
