// What kernels print, and kernels that are slow for one reason each.
#include <cstdio>

extern "C" __global__ void formats(int i, unsigned u, long long l, double d, const char* s) {
    printf("[%d|%i|%u|%o|%x|%X|%c]\n", i, i, u, u, u, u, 'c');
    printf("[%+d|% d|%+i|%05d|%-6d|%6d|%.4d|%8.4d|%-8.4d|%08.4d]\n", i, i, -i, i, i, i, i, i, i, i);
    printf("[%#x|%#X|%#o|%#x|%#.3f|%#g]\n", u, u, u, 0, d, 2.0);
    printf("[%hhd|%hhu|%hd|%hu|%ld|%lu|%lld|%llx|%zu|%jd|%td]\n", i + 256, i + 256, i + 65536, i + 65536, (long)l,
           (unsigned long)l, l, l, (size_t)l, l, l);
    printf("[%.2s|%s|%8s|%-8s|%8.3s|%.*s|%*s|%-*s]\n", s, s, s, s, s, 1, s, 7, s, 7, s);
    printf("[%f|%F|%.0f|%.3f|%10.2f|%-10.2f|%010.2f|%+.1f]\n", d, d, d, d, d, d, d, d);
    printf("[%e|%E|%.0e|%.3E|%g|%G|%g|%g|%.3g|%g]\n", d, d, d, d, d, d, 1e-5, 1e20, d, 100000.0);
    printf("[%a|%A|%.1a|%f|%F|%5.1f|%-5f|%E]\n", 1.5, 1.5, 1.5, 1. / 0., -1. / 0., 1. / 0., __longlong_as_double(0x7ff8000000000000), 1. / 0.);
    printf("[%*d|%-*d|%*d|%.*f|%*.*f|%.*d]\n", 6, i, 6, i, -6, i, 2, d, 9, 1, d, -1, i);
    printf("[%p|%%|%5c|%-3c|100%]\n", (void*)0x7f00, 'x', 'y');
    printf("[%y|%5y|%n]\n");
}

// What printf returns: the number of arguments.
extern "C" __global__ void format_results(int* y) {
    y[0] = printf("nothing\n");
    y[1] = printf("%d %*d\n", 1, 3, 2);
    y[2] = printf(nullptr);
}

extern "C" __global__ void say(const char* format, const char* s) { printf(format, s); }

#define EIGHT "%d %d %d %d %d %d %d %d "
extern "C" __global__ void many(int i) {
    printf(EIGHT EIGHT EIGHT EIGHT "%d|%d\n", i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i,
           i, i, i, i, i, i);
}
