/* meter LOG COMMAND…: runs COMMAND in this place of the pipe, then appends "user_s system_s peak_pss_kib" to LOG.
 *
 * PSS: memory that several processes share counts as its share. It is looked at when the process has grown, a hundred
 * times a second at most; -1 where the system does not say it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GROWN_PAGES = 128 };

static pid_t child;

static void pass_on(int number) {
    if (child > 0) kill(child, number);
}

static void wake(int number) {
    (void)number;
}

static double seconds(struct timeval time) {
    return time.tv_sec + time.tv_usec / 1e6;
}

/* A file of the child in /proc, as a string; empty where there is none. */
static const char *told(const char *name) {
    static char text[4096];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)child, name);
    int file = open(path, O_RDONLY);
    ssize_t length = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    text[length < 0 ? 0 : length] = 0;
    return text;
}

static long peak_pss(long peak) {
    static long seen;
    long pages = 0, pss;
    if (sscanf(told("statm"), "%*d %ld", &pages) != 1 || pages < seen + GROWN_PAGES) return peak;
    seen = pages;
    const char *line = strstr(told("smaps_rollup"), "\nPss:");
    return line && sscanf(line, " Pss: %ld", &pss) == 1 && pss > peak ? pss : peak;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    sigset_t ended, none;
    sigemptyset(&none);
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    child = fork();
    if (child == 0) {
        execvp(words[2], words + 2);
        perror(words[2]);
        _exit(127);
    }
    sigprocmask(SIG_BLOCK, &ended, NULL); /* so that it is met in pselect and nowhere else */
    signal(SIGCHLD, wake);
    signal(SIGTERM, pass_on);
    signal(SIGINT, SIG_IGN);
    close(0);
    close(1);

    int status;
    long peak = -1;
    struct rusage used;
    struct timespec step = {0, 10 * 1000 * 1000};
    while (wait4(child, &status, WNOHANG, &used) == 0) {
        peak = peak_pss(peak);
        pselect(0, NULL, NULL, NULL, &step, &none);
    }
    char line[128];
    int length = snprintf(line, sizeof line, "%.4f %.4f %ld\n", seconds(used.ru_utime), seconds(used.ru_stime), peak);
    int log = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (write(log, line, length) != length) return 1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
