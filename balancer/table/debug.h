/* Invariants: checked in the debug build (NS7_DEBUG=1), compiled away otherwise. */
#ifndef NS7_DEBUG_H
#define NS7_DEBUG_H
#include <stdio.h>
#include <stdlib.h>
#ifdef NS7_DEBUG
#define NS7_CHECK(condition)                                                              \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "ns7: broken invariant: %s (%s:%d)\n", #condition, __FILE__, __LINE__); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)
#else
#define NS7_CHECK(condition) ((void)0)
#endif
#endif
