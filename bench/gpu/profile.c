/*
 * Writes down what a program does on an NVIDIA GPU, without changing the program.
 *
 * The CUDA driver loads the library named by CUDA_INJECTION64_PATH when a program first uses CUDA, and calls
 * InitializeInjection. From then on CUPTI hands over records, and this library writes those that matter as lines with
 * tabs between the fields to the file $APT_PROFILE_OUT. read_profile.py makes numbers of them. Times are nanoseconds
 * on one clock for host and GPU.
 *
 *   K start end stream correlation name     a kernel
 *   M start end stream correlation kind bytes  a copy: HtoD, DtoH, DtoD or other
 *   Z start end stream correlation bytes    memory set
 *   A start end thread correlation name     a call that launches, copies or waits, as the host saw it
 *   S start end type                        a wait of the host or of a stream
 *   E dropped errors                        the last line: how many records CUPTI lost
 *
 * Build: make, or
 *   gcc -O2 -fPIC -shared -I CUDA/include profile.c -o libaptprofile.so -L CUPTI/lib -l:libcupti.so.13 -lpthread
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cupti.h>

enum { BUFFER_BYTES = 8 << 20, ALIGNMENT = 8 };

static FILE *out;
static pid_t owner;
static unsigned errors;
static size_t dropped;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A profile that fails must not stop the program: it is said, counted and passed over. */
static void check(CUptiResult result, const char *what) {
    if (result == CUPTI_SUCCESS) return;
    const char *text = "unknown";
    cuptiGetResultString(result, &text);
    fprintf(stderr, "libaptprofile: %s: %s\n", what, text);
    errors++;
}

static const char *copy_kind(uint8_t kind) {
    switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD: return "HtoD";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH: return "DtoH";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD: return "DtoD";
    default: return "other";
    }
}

/* Most calls only ask for something; they would make the file long and say nothing. */
static int is_interesting(const char *name) {
    static const char *const words[] = {"Launch", "Memcpy", "Memset", "Synchronize", "EventQuery", "StreamQuery",
                                        "StreamWait", "MemAlloc", "Malloc", "MemFree", "cudaFree", "HostAlloc"};
    for (size_t word = 0; word < sizeof words / sizeof *words; word++)
        if (strstr(name, words[word])) return 1;
    return 0;
}

/* The older of two record types where both begin alike, so that CUDA 12 and 13 both compile it. */
static void write_record(const CUpti_Activity *record) {
    switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const CUpti_ActivityKernel9 *kernel = (const CUpti_ActivityKernel9 *)record;
        fprintf(out, "K\t%llu\t%llu\t%u\t%u\t%s\n", (unsigned long long)kernel->start, (unsigned long long)kernel->end,
                kernel->streamId, kernel->correlationId, kernel->name ? kernel->name : "?");
        break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const CUpti_ActivityMemcpy5 *copy = (const CUpti_ActivityMemcpy5 *)record;
        fprintf(out, "M\t%llu\t%llu\t%u\t%u\t%s\t%llu\n", (unsigned long long)copy->start,
                (unsigned long long)copy->end, copy->streamId, copy->correlationId, copy_kind(copy->copyKind),
                (unsigned long long)copy->bytes);
        break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
        const CUpti_ActivityMemset4 *set = (const CUpti_ActivityMemset4 *)record;
        fprintf(out, "Z\t%llu\t%llu\t%u\t%u\t%llu\n", (unsigned long long)set->start, (unsigned long long)set->end,
                set->streamId, set->correlationId, (unsigned long long)set->bytes);
        break;
    }
    case CUPTI_ACTIVITY_KIND_DRIVER:
    case CUPTI_ACTIVITY_KIND_RUNTIME: {
        const CUpti_ActivityAPI *call = (const CUpti_ActivityAPI *)record;
        const char *name = NULL;
        CUpti_CallbackDomain domain = record->kind == CUPTI_ACTIVITY_KIND_DRIVER ? CUPTI_CB_DOMAIN_DRIVER_API
                                                                                 : CUPTI_CB_DOMAIN_RUNTIME_API;
        if (cuptiGetCallbackName(domain, call->cbid, &name) != CUPTI_SUCCESS || !name || !is_interesting(name)) break;
        fprintf(out, "A\t%llu\t%llu\t%u\t%u\t%s\n", (unsigned long long)call->start, (unsigned long long)call->end,
                call->threadId, call->correlationId, name);
        break;
    }
    case CUPTI_ACTIVITY_KIND_SYNCHRONIZATION: {
        const CUpti_ActivitySynchronization *wait = (const CUpti_ActivitySynchronization *)record;
        fprintf(out, "S\t%llu\t%llu\t%d\n", (unsigned long long)wait->start, (unsigned long long)wait->end,
                (int)wait->type);
        break;
    }
    default: break;
    }
}

static void CUPTIAPI buffer_requested(uint8_t **buffer, size_t *size, size_t *max_records) {
    void *memory = NULL;
    *size = posix_memalign(&memory, ALIGNMENT, BUFFER_BYTES) == 0 ? BUFFER_BYTES : 0;
    *buffer = memory;
    *max_records = 0;
}

static void CUPTIAPI buffer_completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)size;
    pthread_mutex_lock(&lock);
    CUpti_Activity *record = NULL;
    while (out && valid > 0 && cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS)
        write_record(record);
    /* What stays in stdio's memory would be written once more by a forked child. */
    if (out) fflush(out);
    size_t lost = 0;
    if (cuptiActivityGetNumDroppedRecords(context, stream, &lost) == CUPTI_SUCCESS) dropped += lost;
    pthread_mutex_unlock(&lock);
    free(buffer);
}

static void finish(void) {
    /* A forked child comes here too; the file is its parent's. */
    if (getpid() != owner) return;
    check(cuptiActivityFlushAll(1), "flush");
    pthread_mutex_lock(&lock);
    if (out) {
        fprintf(out, "E\t%zu\t%u\n", dropped, errors);
        fclose(out);
        out = NULL;
    }
    pthread_mutex_unlock(&lock);
}

/* The driver calls it once. 0 would say that it failed. */
__attribute__((visibility("default"))) int InitializeInjection(void) {
    const char *path = getenv("APT_PROFILE_OUT");
    if (out || !path) return 1;
    /* "x": a child process that inherits the environment must not write over its parent's file. */
    out = fopen(path, "wx");
    if (!out) {
        fprintf(stderr, "libaptprofile: cannot create %s, or it is there already\n", path);
        return 1;
    }
    owner = getpid();
    atexit(finish);
    check(cuptiActivityRegisterCallbacks(buffer_requested, buffer_completed), "register");
    static const CUpti_ActivityKind kinds[] = {
        CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,  CUPTI_ACTIVITY_KIND_MEMSET,
        CUPTI_ACTIVITY_KIND_RUNTIME,           CUPTI_ACTIVITY_KIND_DRIVER,  CUPTI_ACTIVITY_KIND_SYNCHRONIZATION,
    };
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        check(cuptiActivityEnable(kinds[kind]), "enable");
    return 1;
}
