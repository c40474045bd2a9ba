/* A libnvidia-ml.so.1 for tests: the functions that the exporter calls, over eight pretended GPUs, of which GPU 2 can be in MIG mode. Its state is
 * read from the file that NVML_STUB names, at every call: one word a line of "no-driver" (to be had), "unloaded" (while in use too), "mismatch", "lost1", "no-v2", "old-names",
 * "mig", "xid" (79 of GPU 0), "xid-mig" (31 of GPU 2's instance 1), "xid-whole" (94 of all of GPU 2). Each XID comes once.
 * The layouts are NVML's public ABI. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int ret;
enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, FUNCTION_NOT_FOUND = 13,
       GPU_IS_LOST = 15, MISMATCH = 18 };

/* Handles: 0 to 7 are GPUs, 20 to 22 GPU 2's MIG devices: instance 1, and instance 2 with two compute instances. */
static int inits, taken[3], gpus[8] = {0, 1, 2, 3, 4, 5, 6, 7}, migs[3] = {20, 21, 22};
#define IS_MIG(device) (*(int *)(device) >= 20)

static int state(const char *word) {
    char line[64];
    FILE *file = getenv("NVML_STUB") ? fopen(getenv("NVML_STUB"), "r") : NULL;
    int found = 0;
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        found |= !strcmp(line, word);
    }
    if (file) fclose(file);
    return found;
}

static ret check(void *device) {
    if (!inits) return UNINITIALIZED;
    if (state("mismatch")) return MISMATCH;
    if (state("unloaded")) return DRIVER_NOT_LOADED;
    if (device == &gpus[1] && state("lost1")) return GPU_IS_LOST;
    return OK;
}
#define CHECK(device) do { ret code = check(device); if (code) return code; } while (0)

ret nvmlInitWithFlags(unsigned flags) {
    if (state("no-driver") || state("unloaded")) return DRIVER_NOT_LOADED;
    if (state("mismatch")) return MISMATCH;
    inits++;
    return OK;
}
ret nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
ret nvmlShutdown(void) { inits--; return OK; }
const char *nvmlErrorString(ret code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "stub error"; }
ret nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "580.01"); return check(NULL); }
ret nvmlDeviceGetCount_v2(unsigned *out) { *out = 8; return check(NULL); }
ret nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { CHECK(&gpus[index]); *out = &gpus[index]; return OK; }
ret nvmlDeviceGetMinorNumber(void *device, unsigned *out) { CHECK(device); *out = *(int *)device; return OK; }
ret nvmlDeviceGetUUID(void *device, char *out, unsigned size) { CHECK(device); snprintf(out, size, IS_MIG(device) ? "MIG-%d" : "GPU-%d", *(int *)device); return OK; }
ret nvmlDeviceGetName(void *device, char *out, unsigned size) {
    static const char *profiles[] = {"1g.10gb", "1c.3g.40gb", "2c.3g.40gb"};
    CHECK(device);
    if (IS_MIG(device)) snprintf(out, size, "Stub H300 MIG %s", profiles[*(int *)device - 20]);
    else snprintf(out, size, "Stub H%d00", *(int *)device + 1);
    return OK;
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
ret nvmlDeviceGetPciInfo_v3(void *device, struct pci *out) {
    CHECK(device);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", 7 + *(int *)device);
    return OK;
}
ret nvmlDeviceGetUtilizationRates(void *device, unsigned out[2]) {
    CHECK(device);
    if (device == &gpus[2] && state("mig")) return NOT_SUPPORTED;
    out[0] = 83; out[1] = 41;
    return OK;
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
static const unsigned long long MIB = 1024 * 1024;
ret nvmlDeviceGetMemoryInfo(void *device, struct memory *out) {
    CHECK(device);
    out->total = 1000 * MIB; out->free = 700 * MIB; out->used = 300 * MIB;
    return OK;
}
ret nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *out) {
    CHECK(device);
    if (state("no-v2")) return FUNCTION_NOT_FOUND;
    if (IS_MIG(device)) { out->total = 100 * MIB; out->reserved = 5 * MIB; out->free = 60 * MIB; out->used = 35 * MIB; return OK; }
    out->total = 1000 * MIB; out->reserved = 50 * MIB; out->free = 700 * MIB; out->used = 250 * MIB;
    return OK;
}
ret nvmlDeviceGetPowerUsage(void *device, unsigned *out) { CHECK(device); *out = 350500; return OK; }
ret nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out) {
    CHECK(device);
    if (device == &gpus[1]) return NOT_SUPPORTED; /* as before Volta */
    *out = 123456789;
    return OK;
}
ret nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) { CHECK(device); *out = 61; return OK; }
ret nvmlDeviceGetClockInfo(void *device, int clock, unsigned *out) { CHECK(device); *out = clock == 1 ? 1980 : clock == 2 ? 2619 : 1; return OK; }

ret nvmlDeviceGetEncoderUtilization(void *device, unsigned *out, unsigned *period) { CHECK(device); *out = 7; *period = 1; return OK; }
ret nvmlDeviceGetDecoderUtilization(void *device, unsigned *out, unsigned *period) { CHECK(device); *out = 9; *period = 1; return OK; }
ret nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *out) {
    CHECK(device);
    if (state("old-names")) return FUNCTION_NOT_FOUND;
    *out = 0x24; /* software power cap and thermal slowdown */
    return OK;
}
ret nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *out) { CHECK(device); *out = 0x4; return OK; }
/* As slow as the real one. */
ret nvmlDeviceGetPcieThroughput(void *device, int counter, unsigned *out) { CHECK(device); usleep(20000); *out = counter ? 2000 : 1000; return OK; }

struct field { unsigned id, scope; long long timestamp, latency; unsigned type; ret code; union { double d; unsigned u; unsigned long long ull; } value; };
ret nvmlDeviceGetFieldValues(void *device, int count, struct field *fields) {
    CHECK(device);
    for (int i = 0; i < count; i++) {
        struct field *field = &fields[i];
        field->code = OK; field->type = 3; field->value.ull = field->id;
        if (field->id == 82) { field->type = 1; field->value.u = 70; }                              /* memory temperature */
        else if (field->id == 138 || field->id == 139) {                                            /* NVLink, all links */
            if (field->scope != 0xFFFFFFFF || device == &gpus[1]) field->code = NOT_SUPPORTED;
            field->value.ull = 1ULL << 40;
        } else if (field->id == 4 && device == &gpus[1]) field->code = NOT_SUPPORTED;               /* no ECC */
    }
    return OK;
}

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };
ret nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *out) {
    unsigned room = *count, have = device == &gpus[0] ? 2 : device == &migs[0] ? 1 : 0;
    CHECK(device);
    *count = have;
    if (room < have) return 7; /* insufficient size */
    for (unsigned i = 0; i < have; i++) { out[i].pid = 4000 + *(int *)device + i; out[i].memory = (i + 1) * 100 * MIB; }
    return OK;
}

ret nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) {
    CHECK(device);
    if (device == &gpus[1]) return NOT_SUPPORTED;
    *now = *later = device == &gpus[2] && state("mig");
    return OK;
}
ret nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *out) { CHECK(device); *out = 7; return OK; }
ret nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **out) {
    CHECK(device);
    if (index == 1 || index > 3) return NOT_FOUND; /* indexes have gaps */
    *out = &migs[index ? index - 1 : 0];
    return OK;
}
ret nvmlDeviceGetGpuInstanceId(void *device, unsigned *out) { CHECK(device); *out = device == &migs[0] ? 1 : 2; return OK; }

struct event { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
ret nvmlEventSetCreate(void **out) { static int set; CHECK(NULL); *out = &set; return OK; }
ret nvmlEventSetFree(void *set) { return OK; }
ret nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *out) { CHECK(device); *out = 8; return OK; }
ret nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) { CHECK(device); return types == 8 ? OK : NOT_SUPPORTED; }
ret nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout) {
    static const struct { const char *word; int gpu; unsigned xid, instance; } events[] = {
        {"xid", 0, 79, 0xFFFFFFFF}, {"xid-mig", 2, 31, 1}, {"xid-whole", 2, 94, 0xFFFFFFFF}};
    CHECK(NULL);
    if (state("lost1")) return GPU_IS_LOST;
    for (int i = 0; i < 3; i++)
        if (!taken[i] && state(events[i].word)) {
            taken[i] = 1;
            out->device = &gpus[events[i].gpu]; out->type = 8; out->data = events[i].xid; out->gpu_instance = events[i].instance;
            return OK;
        }
    usleep(1000 * (timeout < 20 ? timeout : 20));
    return TIMEOUT;
}
