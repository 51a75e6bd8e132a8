/* Holds a program of a test host at a chosen moment: preloaded into every program there (/etc/ld.so.preload), never part of the product.
 * Copyright: (c) 2026, the sesame.knock authors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * /run/fault/trap says where, one moment a line, and the first that comes counts:
 *     before|after run PATTERN[ ! PATTERN]     a program with this command line begins, ends
 *     before|after move PATTERN[ ! PATTERN]    a file is renamed to this path
 *     before|after remove PATTERN[ ! PATTERN]  a file or folder of this path is removed
 * What is held writes /run/fault/reached and goes on when there is /run/fault/go, or /run/fault/go.PID, which is for it alone and
 * goes with it: so the next trap can be set before it goes on. Only old symbols of glibc are used, so that one build runs on every
 * Debian.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <fnmatch.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <errno.h>

#define DIRECTORY "/run/fault/"
#define LONGEST 8192
#define PATIENCE 300 /* seconds */

static char command_line[LONGEST];
static pid_t self;

static void hold(const char *what)
{
    int file = open(DIRECTORY "reached.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    char pid[16], mine[32] = DIRECTORY "go.";
    int at = sizeof pid - 1, left = getpid();
    pid[at] = 0;
    do pid[--at] = '0' + left % 10; while (left /= 10);
    strcat(mine, pid + at);
    if (file < 0) return;
    if (write(file, pid + at, strlen(pid + at)) < 0 || write(file, " ", 1) < 0 || write(file, what, strlen(what)) < 0) return;
    close(file);
    syscall(SYS_renameat2, AT_FDCWD, DIRECTORY "reached.new", AT_FDCWD, DIRECTORY "reached", 0);
    for (int i = 0; i < PATIENCE * 50 && access(DIRECTORY "go", F_OK) && syscall(SYS_unlinkat, AT_FDCWD, mine, 0); i++) {
        struct timespec nap = {0, 20000000};
        nanosleep(&nap, NULL);
    }
}

/* The first one takes the trap away. */
static int is_first(void)
{
    return !syscall(SYS_renameat2, AT_FDCWD, DIRECTORY "trap", AT_FDCWD, DIRECTORY "sprung", 0);
}

static void moment(const char *when, const char *what)
{
    char text[LONGEST], head[32], *line, *rest, *unless;
    int error = errno, file = open(DIRECTORY "trap", O_RDONLY | O_CLOEXEC);
    ssize_t size;
    if (file < 0) {
        errno = error;
        return;
    }
    size = read(file, text, sizeof text - 1);
    close(file);
    text[size > 0 ? size : 0] = 0;
    strcpy(head, when);
    strcat(head, " ");
    rest = text;
    while ((line = strsep(&rest, "\n"))) {
        if (strncmp(line, head, strlen(head))) continue;
        line += strlen(head);
        unless = strstr(line, " ! ");
        if (unless) {
            *unless = 0;
            unless += 3;
        }
        if (fnmatch(line, what, 0) || (unless && !fnmatch(unless, what, 0))) continue;
        if (is_first()) hold(what);
        break;
    }
    errno = error;
}

static void whole_path(int directory, const char *path, char *whole)
{
    char link[64] = "/proc/self/cwd";
    ssize_t size = 0;
    if (*path != '/') {
        if (directory != AT_FDCWD) {
            char digits[12];
            int at = sizeof digits - 1, left = directory;
            digits[at] = 0;
            do digits[--at] = '0' + left % 10; while (left /= 10);
            strcpy(link, "/proc/self/fd/");
            strcat(link, digits + at);
        }
        size = readlink(link, whole, LONGEST / 2);
        if (size < 0) size = 0;
        whole[size++] = '/';
    }
    strncpy(whole + size, path, LONGEST / 2);
    whole[size + LONGEST / 2] = 0;
}

static int moved(int from, const char *old, int to, const char *new, unsigned flags)
{
    char path[LONGEST + 8];
    int result;
    whole_path(to, new, path);
    moment("before move", path);
    result = syscall(SYS_renameat2, from, old, to, new, flags);
    if (!result) moment("after move", path);
    return result;
}
int rename(const char *old, const char *new) { return moved(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return moved(from, old, to, new, 0); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) { return moved(from, old, to, new, flags); }

static int removed(int directory, const char *old, int flags)
{
    char path[LONGEST + 8];
    int result;
    whole_path(directory, old, path);
    moment("before remove", path);
    result = syscall(SYS_unlinkat, directory, old, flags);
    if (!result) moment("after remove", path);
    return result;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int directory, const char *path, int flags) { return removed(directory, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }

/* The name without its folder, then the arguments. */
static void __attribute__((constructor)) begins(int argc, char **argv)
{
    size_t used = 0;
    if (access(DIRECTORY "trap", F_OK)) return;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!i && strrchr(word, '/')) word = strrchr(word, '/') + 1;
        if (used + strlen(word) + 2 > sizeof command_line) break;
        if (i) command_line[used++] = ' ';
        strcpy(command_line + used, word);
        used += strlen(word);
    }
    self = getpid();
    moment("before run", command_line);
}

static void __attribute__((destructor)) ends(void)
{
    if (self == getpid()) moment("after run", command_line); /* children that never became a program end too */
}
