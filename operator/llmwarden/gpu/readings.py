"""What one device says of itself, under DCGM's field names and in its units. What it does not support is absent, never zero."""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import pynvml

T = TypeVar("T")
MIB: Final = 1024 * 1024
ALL_LINKS: Final = 0xFFFFFFFF  # the scope of a field over all of a device's NVLinks

# Errors after which nothing can be read until the library is initialised again.
DRIVER_GONE: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_RESET_REQUIRED,
    }
)
ABSENT: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
    }
)
# Fields that one call fetches together.
_FIELDS: Final = {
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
    "DCGM_FI_DEV_MEMORY_TEMP": pynvml.NVML_FI_DEV_MEMORY_TEMP,
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER,
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": pynvml.NVML_FI_DEV_REMAPPED_COR,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": pynvml.NVML_FI_DEV_REMAPPED_UNC,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": pynvml.NVML_FI_DEV_REMAPPED_FAILURE,
}
_NVLINK: Final = (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
_QUESTION: Final = [*_FIELDS.values(), *((field, ALL_LINKS) for field in _NVLINK)]
# Which member of NVML's union holds the value, by its type.
_MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class LostError(Exception):
    """The GPU does not answer any more."""


def ask(question: Callable[..., T], *arguments: Any) -> T | None:
    """Return the answer, None where this GPU has none; raises LostError, or NVMLError when the driver is gone."""
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        if error.value in DRIVER_GONE:
            raise
        if error.value in ABSENT:
            return None
        raise LostError from error


def whole(handle: Any) -> dict[str, float]:
    """Read a GPU; raises as `ask` does."""
    return {
        name: value
        for read in (_utilisation, memory, _power, _clocks, _fields)
        for name, value in read(handle)
        if value is not None
    }


def memory(handle: Any) -> Iterator[tuple[str, float]]:
    """Read the memory of a GPU or a MIG device."""
    info = ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if info is not None:
        yield "DCGM_FI_DEV_FB_RESERVED", info.reserved // MIB
    else:
        # Drivers before 510 count what is reserved as used.
        info = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if info is not None:
        yield "DCGM_FI_DEV_FB_USED", info.used // MIB
        yield "DCGM_FI_DEV_FB_FREE", info.free // MIB


def processes(handle: Any) -> tuple[tuple[int, int], ...]:
    """Return the compute processes of a GPU or a MIG device: the host's process number, and bytes of its memory."""
    running = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    if running is None:
        running = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)  # before 510
    return tuple((int(one.pid), int(one.usedGpuMemory)) for one in running or () if one.usedGpuMemory is not None)


def pcie(handle: Any) -> dict[str, float]:
    """Measure PCIe's throughput in KB/s. Each of the two answers takes the driver 20 ms: not for a scrape to wait for."""
    throughputs = {
        "DCGM_FI_DEV_PCIE_TX_THROUGHPUT": ask(
            pynvml.nvmlDeviceGetPcieThroughput, handle, pynvml.NVML_PCIE_UTIL_TX_BYTES
        ),
        "DCGM_FI_DEV_PCIE_RX_THROUGHPUT": ask(
            pynvml.nvmlDeviceGetPcieThroughput, handle, pynvml.NVML_PCIE_UTIL_RX_BYTES
        ),
    }
    return {name: value for name, value in throughputs.items() if value is not None}


def _utilisation(handle: Any) -> Iterator[tuple[str, float | None]]:
    rates = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)  # none under MIG
    if rates is not None:
        yield "DCGM_FI_DEV_GPU_UTIL", rates.gpu
        yield "DCGM_FI_DEV_MEM_COPY_UTIL", rates.memory
    for name, question in (
        ("ENC", pynvml.nvmlDeviceGetEncoderUtilization),
        ("DEC", pynvml.nvmlDeviceGetDecoderUtilization),
    ):
        answer = ask(question, handle)
        if answer is not None:
            yield f"DCGM_FI_DEV_{name}_UTIL", answer[0]


def _power(handle: Any) -> Iterator[tuple[str, float | None]]:
    milliwatts = ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    if milliwatts is not None:
        yield "DCGM_FI_DEV_POWER_USAGE", milliwatts / 1000
    yield "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    yield "DCGM_FI_DEV_GPU_TEMP", ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)


def _clocks(handle: Any) -> Iterator[tuple[str, float | None]]:
    yield "DCGM_FI_DEV_SM_CLOCK", ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM)
    yield "DCGM_FI_DEV_MEM_CLOCK", ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM)
    reasons = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:
        reasons = ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)  # the name before 535
    # DCGM renamed the field too: both.
    yield "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", reasons
    yield "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", reasons


def _fields(handle: Any) -> Iterator[tuple[str, float | None]]:
    fields = ask(pynvml.nvmlDeviceGetFieldValues, handle, _QUESTION)
    if fields is None:
        return
    answers = [_value(field) for field in fields]
    yield from zip(_FIELDS, answers, strict=False)
    links = [kibibytes for kibibytes in answers[len(_FIELDS) :] if kibibytes is not None]
    if links:
        yield "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", sum(links)


def _value(field: Any) -> float | None:
    if field.nvmlReturn == pynvml.NVML_ERROR_GPU_IS_LOST:
        raise LostError
    if field.nvmlReturn != pynvml.NVML_SUCCESS or field.valueType >= len(_MEMBERS):
        return None
    value: float = getattr(field.value, _MEMBERS[field.valueType])
    return value
