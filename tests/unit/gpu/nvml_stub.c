/* A libnvidia-ml.so.1 for tests: the functions that the exporter calls, over two pretended GPUs. Its state is read from the
 * file that NVML_STUB names, at every call: one word a line of "no-driver", "mismatch", "lost1", "no-v2", "xid".
 * The layouts are NVML's public ABI. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int ret;
enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, FUNCTION_NOT_FOUND = 13,
       GPU_IS_LOST = 15, MISMATCH = 18 };

static int inits, xid_taken, gpus[2] = {0, 1};

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
    if (device == &gpus[1] && state("lost1")) return GPU_IS_LOST;
    return OK;
}
#define CHECK(device) do { ret code = check(device); if (code) return code; } while (0)

ret nvmlInitWithFlags(unsigned flags) {
    if (state("no-driver")) return DRIVER_NOT_LOADED;
    if (state("mismatch")) return MISMATCH;
    inits++;
    return OK;
}
ret nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
ret nvmlShutdown(void) { inits--; return OK; }
const char *nvmlErrorString(ret code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "stub error"; }
ret nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "580.01"); return check(NULL); }
ret nvmlDeviceGetCount_v2(unsigned *out) { *out = 2; return check(NULL); }
ret nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { CHECK(&gpus[index]); *out = &gpus[index]; return OK; }
ret nvmlDeviceGetMinorNumber(void *device, unsigned *out) { CHECK(device); *out = *(int *)device; return OK; }
ret nvmlDeviceGetUUID(void *device, char *out, unsigned size) { CHECK(device); snprintf(out, size, "GPU-%d", *(int *)device); return OK; }
ret nvmlDeviceGetName(void *device, char *out, unsigned size) { CHECK(device); snprintf(out, size, "Stub H%d00", *(int *)device + 1); return OK; }

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
ret nvmlDeviceGetPciInfo_v3(void *device, struct pci *out) {
    CHECK(device);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", 7 + *(int *)device);
    return OK;
}
ret nvmlDeviceGetUtilizationRates(void *device, unsigned out[2]) { CHECK(device); out[0] = 83; out[1] = 41; return OK; }

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

struct event { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
ret nvmlEventSetCreate(void **out) { static int set; CHECK(NULL); *out = &set; return OK; }
ret nvmlEventSetFree(void *set) { return OK; }
ret nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *out) { CHECK(device); *out = 8; return OK; }
ret nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) { CHECK(device); return types == 8 ? OK : NOT_SUPPORTED; }
ret nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout) {
    CHECK(NULL);
    if (!state("xid") || xid_taken) return TIMEOUT;
    xid_taken = 1;
    out->device = &gpus[0]; out->type = 8; out->data = 79;
    return OK;
}
