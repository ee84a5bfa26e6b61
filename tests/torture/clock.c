/* Add the seconds in the file SHIFT to the wall clock of every process that loads this by LD_PRELOAD.
 *
 * Nobody else's clock moves. CLOCK_MONOTONIC stays as it is, as under a real jump. Times of files stay too, and a wait that
 * began before a jump ends as if there had been none.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Seconds since 1970 are beyond this, seconds since the machine's start are not. */
#define WALL_CLOCK 1000000000

static const volatile long *shift;

__attribute__((constructor)) static void map_shift(void) {
    int file = open(SHIFT, O_RDONLY | O_CLOEXEC);
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) shift = mapped;
    if (file >= 0) close(file);
}

static long seconds(void) { return shift ? *shift : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += seconds();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += seconds();
    return failed;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}

/* The kernel waits by its own clock. */
static clockid_t unshifted(struct timespec *end) {
    if (end->tv_sec < WALL_CLOCK) return CLOCK_MONOTONIC;
    end->tv_sec -= seconds();
    return CLOCK_REALTIME;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec end = *until;
    clockid_t clock = unshifted(&end);
    return pthread_cond_clockwait(condition, mutex, clock, &end);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec end = *until;
    clockid_t clock = unshifted(&end);
    return pthread_mutex_clocklock(mutex, clock, &end);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec end = *until;
    clockid_t clock = unshifted(&end);
    return sem_clockwait(semaphore, clock, &end);
}
