/* meter LOG COMMAND…: runs COMMAND in this place of the pipe, then appends "user_s system_s peak_rss_kib" to LOG. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child;

static void pass_on(int number) {
    if (child > 0) kill(child, number);
}

static double seconds(struct timeval time) {
    return time.tv_sec + time.tv_usec / 1e6;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    child = fork();
    if (child == 0) {
        execvp(words[2], words + 2);
        perror(words[2]);
        _exit(127);
    }
    signal(SIGTERM, pass_on);
    signal(SIGINT, SIG_IGN);
    close(0);
    close(1);

    int status;
    struct rusage used;
    while (wait4(child, &status, 0, &used) < 0) {
    }
    long peak = used.ru_maxrss;
#ifdef __APPLE__
    peak /= 1024; /* bytes there */
#endif
    char line[128];
    int length = snprintf(line, sizeof line, "%.4f %.4f %ld\n", seconds(used.ru_utime), seconds(used.ru_stime), peak);
    int log = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (write(log, line, length) != length) return 1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
