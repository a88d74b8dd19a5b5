/* meter LOG COMMAND…: runs COMMAND in this place of the pipe, then appends "user_s system_s peak_pss_kib" to LOG.
 *
 * All that comes of the command counts, and is waited for: who outlives its parent becomes a child of the meter.
 *
 * PSS: memory that several processes share counts as its share. It is looked at when they have grown, a hundred
 * times a second while they do, and ten times at least; -1 where the system does not say it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GROWN_PAGES = 128, LEAST_NS = 10 * 1000 * 1000, MOST_NS = 100 * 1000 * 1000 };

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

/* A file of a process in /proc, as a string; empty where there is none. */
static const char *told(long process, const char *name) {
    static char text[4096];
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/%s", process, name);
    int file = open(path, O_RDONLY);
    ssize_t length = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    text[length < 0 ? 0 : length] = 0;
    return text;
}

static long pages_of(long process) {
    long pages = 0;
    return sscanf(told(process, "statm"), "%*d %ld", &pages) == 1 ? pages : 0;
}

static long pss_of(long process) {
    long pss = 0;
    const char *line = strstr(told(process, "smaps_rollup"), "\nPss:");
    return line && sscanf(line, " Pss: %ld", &pss) == 1 ? pss : 0;
}

/* A measure of all that descend from a process, added up. */
static long below(long process, long (*measure)(long)) {
    char name[48], children[4096], *next;
    snprintf(name, sizeof name, "task/%ld/children", process);
    strcpy(children, told(process, name));
    long sum = 0, one;
    for (char *at = children; (one = strtol(at, &next, 10)) > 0; at = next) sum += measure(one) + below(one, measure);
    return sum;
}

/* Whether there is more memory than ever; then `peak` is looked at. */
static int has_grown(long *peak) {
    static long seen;
    long pages = below(getpid(), pages_of), pss;
    if (pages < seen + GROWN_PAGES) return 0;
    seen = pages;
    if ((pss = below(getpid(), pss_of)) > *peak) *peak = pss;
    return 1;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    sigset_t ended, none;
    sigemptyset(&none);
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
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

    int status, ended_with = 0;
    long peak = -1;
    double user = 0, system = 0;
    struct rusage used;
    struct timespec step = {0, LEAST_NS};
    pid_t one;
    while ((one = wait4(-1, &status, WNOHANG, &used)) >= 0 || errno == EINTR) {
        if (one > 0) {
            if (one == child) ended_with = status;
            user += seconds(used.ru_utime);
            system += seconds(used.ru_stime);
        } else {
            /* To look costs what it is looked at for. */
            step.tv_nsec = has_grown(&peak) ? LEAST_NS : step.tv_nsec < MOST_NS / 2 ? 2 * step.tv_nsec : MOST_NS;
            pselect(0, NULL, NULL, NULL, &step, &none);
        }
    }
    char line[128];
    int length = snprintf(line, sizeof line, "%.4f %.4f %ld\n", user, system, peak);
    int log = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (write(log, line, length) != length) return 1;
    return WIFEXITED(ended_with) ? WEXITSTATUS(ended_with) : 128 + WTERMSIG(ended_with);
}
