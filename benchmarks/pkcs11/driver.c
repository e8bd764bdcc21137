/*
 * Threads x processes that call a PKCS#11 module, and what the calls took, as one JSON object.
 *
 *   driver MODULE make                                  make the key pairs `rsa` and `p256`
 *   driver MODULE ACTION PROCESSES THREADS SECONDS      ACTION: rsa, p256, random, connect
 *
 * The PIN comes in the environment, TOKEN_PIN. `connect` is initialise, open, log in, close, finalise.
 * A call that fails is counted and the loop goes on; latencies are of calls that succeeded.
 */
#include <dlfcn.h>
#include <errno.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 64
#define MOST_PROCESSES 64
#define WARM_S 0.3

static CK_FUNCTION_LIST *p11;
static const char *action;
static double seconds;

struct worker {
    pthread_t thread;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    double *taken_us;
    size_t count, room;
    uint64_t failures;
    CK_RV last_failure;
};
static struct worker workers[MOST_THREADS];
static pthread_barrier_t start;

static void die(const char *what, CK_RV rv)
{
    fprintf(stderr, "driver: %s: 0x%lx\n", what, rv);
    exit(2);
}

static void must(const char *what, CK_RV rv)
{
    if (rv != CKR_OK)
        die(what, rv);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static CK_RV initialize(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    return p11->C_Initialize(&args);
}

static CK_RV open_session(CK_SESSION_HANDLE *session)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    CK_RV rv = p11->C_GetSlotList(CK_TRUE, slots, &count);
    if (rv != CKR_OK)
        return rv;
    if (count == 0)
        return CKR_TOKEN_NOT_PRESENT;
    return p11->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session);
}

static CK_RV login(CK_SESSION_HANDLE session)
{
    char *pin = getenv("TOKEN_PIN");
    if (!pin)
        die("TOKEN_PIN is not set", 0);
    return p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin));
}

static void load(const char *path)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        fprintf(stderr, "driver: %s\n", dlerror());
        exit(2);
    }
    CK_RV (*list)(CK_FUNCTION_LIST **) = (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(module, "C_GetFunctionList");
    if (!list)
        die("no C_GetFunctionList", 0);
    must("C_GetFunctionList", list(&p11));
}

static CK_OBJECT_HANDLE find(CK_SESSION_HANDLE session, const char *label)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, (void *)label, strlen(label)}};
    CK_OBJECT_HANDLE key = 0;
    CK_ULONG count = 0;
    must("C_FindObjectsInit", p11->C_FindObjectsInit(session, wanted, 2));
    must("C_FindObjects", p11->C_FindObjects(session, &key, 1, &count));
    must("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
    if (count != 1)
        die("no such key", count);
    return key;
}

static void make_pair(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, const char *label, CK_ATTRIBUTE kind)
{
    CK_BBOOL yes = CK_TRUE;
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &yes, 1}, {CKA_VERIFY, &yes, 1}, {CKA_LABEL, (void *)label, strlen(label)}, kind};
    CK_ATTRIBUTE private[] = {{CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_SIGN, &yes, 1},
                              {CKA_SENSITIVE, &yes, 1}, {CKA_LABEL, (void *)label, strlen(label)}};
    CK_OBJECT_HANDLE made[2];
    must("C_GenerateKeyPair", p11->C_GenerateKeyPair(session, &mechanism, public, 4, private, 5, &made[0], &made[1]));
}

static void make(void)
{
    CK_SESSION_HANDLE session;
    CK_ULONG bits = 2048;
    CK_BYTE p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    must("C_Initialize", initialize());
    must("C_OpenSession", open_session(&session));
    must("C_Login", login(session));
    make_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, "rsa", (CK_ATTRIBUTE){CKA_MODULUS_BITS, &bits, sizeof bits});
    make_pair(session, CKM_EC_KEY_PAIR_GEN, "p256", (CK_ATTRIBUTE){CKA_EC_PARAMS, p256, sizeof p256});
    must("C_Finalize", p11->C_Finalize(NULL));
}

static CK_RV sign(struct worker *self)
{
    /* DigestInfo of SHA-256, then 32 bytes that stand for the digest; ECDSA takes only these. */
    static CK_BYTE data[51] = {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                               0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20};
    int is_rsa = action[0] == 'r';
    CK_MECHANISM mechanism = {is_rsa ? CKM_RSA_PKCS : CKM_ECDSA, NULL, 0};
    CK_BYTE signature[256];
    CK_ULONG size = sizeof signature;
    CK_RV rv = p11->C_SignInit(self->session, &mechanism, self->key);
    if (rv != CKR_OK)
        return rv;
    rv = is_rsa ? p11->C_Sign(self->session, data, 51, signature, &size)
                : p11->C_Sign(self->session, data + 19, 32, signature, &size);
    if (rv == CKR_OK && size != (is_rsa ? 256 : 64))
        return CKR_SIGNATURE_LEN_RANGE;
    return rv;
}

static CK_RV connect_once(void)
{
    CK_SESSION_HANDLE session;
    CK_RV rv = initialize();
    if (rv != CKR_OK)
        return rv;
    if ((rv = open_session(&session)) == CKR_OK && (rv = login(session)) == CKR_OK)
        rv = p11->C_CloseSession(session);
    CK_RV last = p11->C_Finalize(NULL);
    return rv != CKR_OK ? rv : last;
}

static CK_RV act(struct worker *self)
{
    CK_BYTE drawn[32];
    if (!strcmp(action, "connect"))
        return connect_once();
    if (!strcmp(action, "random"))
        return p11->C_GenerateRandom(self->session, drawn, sizeof drawn);
    return sign(self);
}

static void *repeat(void *given)
{
    struct worker *self = given;
    pthread_barrier_wait(&start);
    double begin = now_s() + WARM_S, end = begin + seconds, at;
    while ((at = now_s()) < end) {
        CK_RV rv = act(self);
        if (rv != CKR_OK) {
            self->failures++;
            self->last_failure = rv;
            continue;
        }
        if (at < begin)
            continue;
        if (self->count == self->room) {
            self->room = self->room ? 2 * self->room : 4096;
            if (!(self->taken_us = realloc(self->taken_us, self->room * sizeof *self->taken_us)))
                die("no memory", self->room);
        }
        self->taken_us[self->count++] = (now_s() - at) * 1e6;
    }
    return NULL;
}

static void put(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size) {
        ssize_t done = write(fd, at, size);
        if (done < 0 && errno != EINTR)
            exit(2);
        if (done > 0)
            at += done, size -= done;
    }
}

static int get(int fd, void *data, size_t size)
{
    char *at = data;
    while (size) {
        ssize_t done = read(fd, at, size);
        if (done == 0 || (done < 0 && errno != EINTR))
            return 0;
        if (done > 0)
            at += done, size -= done;
    }
    return 1;
}

/* One process: prepare, tell `ready`, wait for `go` to close, work, write what it took. */
static void process(const char *module, int threads, int go, int out)
{
    char byte = 0;
    load(module);
    if (strcmp(action, "connect")) {
        must("C_Initialize", initialize());
        for (int i = 0; i < threads; i++) {
            must("C_OpenSession", open_session(&workers[i].session));
            if (i == 0)
                must("C_Login", login(workers[0].session));
            if (strcmp(action, "random"))
                workers[i].key = find(workers[i].session, action);
        }
    }
    pthread_barrier_init(&start, NULL, threads + 1);
    for (int i = 0; i < threads; i++)
        pthread_create(&workers[i].thread, NULL, repeat, &workers[i]);
    put(out, &byte, 1);
    while (read(go, &byte, 1) < 0 && errno == EINTR)
        ;
    pthread_barrier_wait(&start);
    for (int i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    for (int i = 0; i < threads; i++) {
        uint64_t head[3] = {workers[i].failures, workers[i].last_failure, workers[i].count};
        put(out, head, sizeof head);
        put(out, workers[i].taken_us, workers[i].count * sizeof(double));
    }
    if (strcmp(action, "connect"))
        p11->C_Finalize(NULL);
    exit(0);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[2], "make")) {
        load(argv[1]);
        make();
        return 0;
    }
    int processes = argc == 6 ? atoi(argv[3]) : 0, threads = argc == 6 ? atoi(argv[4]) : 0;
    if (processes < 1 || processes > MOST_PROCESSES || threads < 1 || threads > MOST_THREADS)
        die("usage: driver MODULE ACTION PROCESSES THREADS SECONDS, or driver MODULE make", 0);
    action = argv[2];
    seconds = atof(argv[5]);
    if (!strcmp(action, "connect") && threads != 1)
        die("connect is of one thread: a module has one connection", 0);

    int go[2], out[MOST_PROCESSES][2];
    if (pipe(go))
        die("pipe", errno);
    for (int i = 0; i < processes; i++) {
        if (pipe(out[i]))
            die("pipe", errno);
        pid_t child = fork();
        if (child < 0)
            die("fork", errno);
        if (child == 0) {
            close(go[1]);
            process(argv[1], threads, go[0], out[i][1]);
        }
        close(out[i][1]);
        char byte; /* one after the other: SoftHSM's processes miss the PIN when they log in at once */
        if (!get(out[i][0], &byte, 1))
            die("a process ended before it began", i);
    }
    close(go[1]); /* all of them begin */

    double *all = NULL;
    size_t count = 0;
    uint64_t failures = 0, last_failure = 0;
    for (int i = 0; i < processes * threads; i++) {
        uint64_t head[3];
        int fd = out[i / threads][0];
        if (!get(fd, head, sizeof head))
            die("a process died", i);
        failures += head[0];
        if (head[0])
            last_failure = head[1];
        if (!(all = realloc(all, (count + head[2] + 1) * sizeof *all)) || !get(fd, all + count, head[2] * sizeof *all))
            die("a process died", i);
        count += head[2];
    }
    int status, is_bad = 0;
    while (wait(&status) > 0)
        is_bad |= status != 0;
    qsort(all, count, sizeof *all, ascending);
    printf("{\"ops\": %.2f, \"p50\": %.1f, \"p99\": %.1f, \"worst\": %.1f, \"failures\": %llu, \"last_failure\": %llu}\n",
           count / seconds, count ? all[count / 2] : 0, count ? all[count * 99 / 100] : 0, count ? all[count - 1] : 0,
           (unsigned long long)failures, (unsigned long long)last_failure);
    return is_bad ? 2 : 0;
}
