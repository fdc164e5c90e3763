/* The CUDA driver calls superlower makes, over host memory, for machines without a GPU.
 *
 * Stricter than it is fast: a stream runs nothing before it is waited for, so a result read too early is wrong;
 * calls from a thread without a context fail; everything alive is counted. FAKE_CUDA_SM in the environment says
 * which architecture its devices are.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201 };
enum { MOST_WORK = 64 };

typedef void (*callback)(void);
typedef struct { void *to; const void *from; size_t size; callback run; } work;
typedef struct { work items[MOST_WORK]; int count; } stream;

static _Thread_local void *current;
static int alive, allocations_left = -1, sm = 86, devices = 1;
static char context;

int fake_alive(void) { return alive; }
void fake_allocations_left(int count) { allocations_left = count; }
void fake_devices(int count, int each_sm) { devices = count; sm = each_sm; }
int fake_enqueue(void *handle, callback run) {
    stream *s = handle;
    s->items[s->count++] = (work){.run = run};
    return OK;
}

int cuInit(unsigned flags) {
    const char *given = getenv("FAKE_CUDA_SM");
    if (given) sm = atoi(given);
    return flags ? INVALID : OK;
}
int cuDriverGetVersion(int *version) { *version = 12090; return OK; }
int cuGetErrorName(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == NO_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_INVALID_VALUE";
    return OK;
}
int cuDeviceGetCount(int *count) { *count = devices; return OK; }
int cuDeviceGet(int *device, int index) { *device = 7 + index; return index < devices ? OK : INVALID; }
int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, "Fake GPU %d", device - 7);
    return OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device < 7) return INVALID;
    if (attribute == 75) *value = sm / 10;
    else if (attribute == 76) *value = sm % 10;
    else return INVALID;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **handle, int device) {
    if (device < 7) return INVALID;
    alive++;
    *handle = &context;
    return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) { alive--; return device < 7 ? INVALID : OK; }
int cuCtxSetCurrent(void *handle) { current = handle; return handle == &context ? OK : INVALID; }

static int allocate(void **memory, size_t size) {
    if (!current) return NO_CONTEXT;
    if (allocations_left == 0) return OUT_OF_MEMORY;
    if (allocations_left > 0) allocations_left--;
    alive++;
    *memory = malloc(size);
    memset(*memory, 0xAB, size);
    return OK;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    void *memory = NULL;
    int code = allocate(&memory, size);
    *address = (uint64_t)(uintptr_t)memory;
    return code;
}
int cuMemAllocHost_v2(void **memory, size_t size) { return allocate(memory, size); }
static int release(void *memory) {
    if (!current) return NO_CONTEXT;
    alive--;
    free(memory);
    return OK;
}
int cuMemFree_v2(uint64_t address) { return release((void *)(uintptr_t)address); }
int cuMemFreeHost(void *memory) { return release(memory); }

static int enqueue_copy(void *to, const void *from, size_t size, void *handle) {
    stream *s = handle;
    if (!current) return NO_CONTEXT;
    if (!s || s->count == MOST_WORK) return INVALID;
    s->items[s->count++] = (work){to, from, size, NULL};
    return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *handle) {
    return enqueue_copy((void *)(uintptr_t)to, from, size, handle);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *handle) {
    return enqueue_copy(to, (const void *)(uintptr_t)from, size, handle);
}
int cuStreamCreate(void **handle, unsigned flags) {
    if (!current) return NO_CONTEXT;
    alive++;
    *handle = calloc(1, sizeof(stream));
    return flags == 1 ? OK : INVALID;
}
int cuStreamSynchronize(void *handle) {
    stream *s = handle;
    if (!current) return NO_CONTEXT;
    for (int i = 0; i < s->count; i++) {
        if (s->items[i].run) s->items[i].run();
        else memcpy(s->items[i].to, s->items[i].from, s->items[i].size);
    }
    s->count = 0;
    return OK;
}
int cuStreamDestroy_v2(void *handle) { return release(handle); }
