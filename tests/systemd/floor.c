/* The smallest program that a socket can start: says that it runs, takes the poke, ends. No libc, no loader.
 * cc -static -nostdlib -Os floor.c -o floor */
#include <sys/syscall.h>

static long system_call(long number, long a, long b, long c) {
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "no system call for this machine"
#endif
}

void _start(void) {
    system_call(SYS_write, 1, (long)"awake\n", 6);
    system_call(SYS_close, system_call(SYS_accept, 3, 0, 0), 0, 0);
    system_call(SYS_exit_group, 0, 0, 0);
}
