/* poke SOCKET: connects to it, and prints when: µs since 1970, read just before. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

int main(int count, char **arguments) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timespec now;
    int connection = socket(AF_UNIX, SOCK_STREAM, 0);

    if (count != 2 || strlen(arguments[1]) >= sizeof address.sun_path) {
        fputs("usage: poke SOCKET\n", stderr);
        return 2;
    }
    strcpy(address.sun_path, arguments[1]);
    clock_gettime(CLOCK_REALTIME, &now);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0) {
        perror(arguments[1]);
        return 1;
    }
    printf("%lld\n", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    return 0;
}
