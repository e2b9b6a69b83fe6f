/* Preloaded into the program, it makes the local file system answer as a network one may: the reply to a rename or a link is lost and
 * the repeated request finds the work done, folders cannot be synced, and a removed file stays as `.nfsNNNN` for a while. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int lost(void) {
    static int calls;
    return __sync_add_and_fetch(&calls, 1) % 2;
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    int result = real(from, to);
    if (result == 0 && lost()) {
        errno = ENOENT;
        return -1;
    }
    return result;
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    int (*real)(int, const char *, int, const char *, int) = dlsym(RTLD_NEXT, "linkat");
    int result = real(from_folder, from, to_folder, to, flags);
    if (result == 0 && lost()) {
        errno = EEXIST;
        return -1;
    }
    return result;
}

int fsync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    struct stat status;
    if (fstat(file, &status) == 0 && S_ISDIR(status.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return real(file);
}

int unlink(const char *path) {
    int (*rename_file)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    static int counter;
    char left[4096];
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    int number = __sync_add_and_fetch(&counter, 1);
    snprintf(left, sizeof left, "%.*s.nfs%08d", folder, path, number);
    return rename_file(path, left);
}
