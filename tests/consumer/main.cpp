#include <cstdio>

#include "flowgrad/flowgrad.h"

int main() { std::puts("flowgrad found"); }
